"""What was typed: Hydra overrides, and every problem that they have."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, Sweep
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lowrung.config import grammar, rules, structured, words
from lowrung.config.hydra_app import CONFIG_NAME, hydra_app
from lowrung.config.interpolation import own_hydra_node
from lowrung.config.keys import is_declared
from lowrung.config.schema import Config
from lowrung.errors import UsageError

Compose = Callable[[Sequence[str]], DictConfig]
"""Composes a config, Hydra's own node included, from overrides; raises what Hydra raises."""

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError)
"""What Hydra raises for an override that it cannot take; ``lora=4`` is a ValueError."""


def alternatives(override: Override) -> list[str]:
    """The single values that an override stands for, each as an override: an interval stands for its ends.

    One over seeds stands for none: it is refused whatever its ends.
    """
    key = override.get_key_element()
    if override.is_interval_sweep():
        if key.lstrip("+") == "seed":
            return []
        sweep = interval(override)
        return [f"{key}={end}" for end in (sweep.start, sweep.end)]
    if override.is_sweep_override():
        return [f"{key}={grammar.quote(value)}" for value in override.sweep_iterator()]
    return [override.input_line or ""]


def interval(override: Override) -> IntervalSweep:
    """The interval that an override sweeps over; whole ends mean that whole numbers are drawn."""
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep)
    return sweep


def problems(
    overrides: Sequence[str],
    compose: Compose,
    parser: OverridesParser,
    hold: Callable[[Config], list[str]] = rules.problems,
) -> list[str]:
    """Every problem that these overrides have: each is composed alone, then the good ones are held to the rules.

    Args:
        overrides: as typed, sweeps included.
        compose: composes a config from overrides without sweeps.
        parser: Hydra's; it must know a config loader for ``glob()``.
        hold: what a config must hold to.
    """
    found: list[str] = []
    axes: list[_Axis] = []
    for text in overrides:
        try:
            override = _parse(text, parser)
        except (HydraException, ValueError) as error:
            found.append(f"`{text}` cannot be read: {words.of_grammar(error)}. {words.how_to_quote(text, error)}")
        else:
            if problem := _form_problem(text, override):
                found.append(problem)
            else:
                axes.append(_Axis(override, alternatives(override)))
    try:
        configs = list(_composed([axis.singles for axis in axes], compose))
    except COMPOSITION_ERRORS:  # rare, so only now is each composed alone
        chosen = _parts(axes, compose)

        def compose_with_parts(singles: Sequence[str]) -> DictConfig:
            return compose([*(part for part in chosen if part not in singles), *singles])

        defaults = compose_with_parts([])
        for axis in axes:
            found += axis.take_out_misfits(compose_with_parts, defaults)
        configs = list(_composed([axis.singles for axis in axes], compose, is_tolerant=True))
    for config in configs:
        found += hold(config)
    return list(dict.fromkeys(found))


def _parts(axes: Sequence["_Axis"], compose: Compose) -> list[str]:
    """What others may rest on, and composes: ``hydra/sweeper/pruner=asha`` and ``+mine=x`` bring settings."""
    parts: list[str] = []
    for axis in axes:
        single = axis.singles[0] if len(axis.singles) == 1 else ""
        if re.match(r"hydra/|hydra\.searchpath=|\+[\w/]+=", single):
            with contextlib.suppress(*COMPOSITION_ERRORS):
                compose([*parts, single])
                parts.append(single)
    return parts


@dataclasses.dataclass
class _Axis:
    """An override and the single values that it stands for, each as an override."""

    override: Override
    singles: list[str]

    def take_out_misfits(self, compose: Compose, defaults: DictConfig) -> list[str]:
        """Leaves only singles that compose, and says what is wrong with the others."""
        problems = {single: _composition_problem(single, compose, defaults) for single in self.singles}
        self.singles = [single for single, problem in problems.items() if problem is None]
        hint = ""
        if self.override.is_interval_sweep():
            sweep = interval(self.override)
            hint = f" Write int(interval({sweep.start:g},{sweep.end:g})) to search whole numbers."
        return [problem + (hint if words.WHOLE in problem else "") for problem in problems.values() if problem]


def parsed(text: str, parser: OverridesParser) -> Override | None:
    """An override as Hydra reads it, or None where it cannot."""
    try:
        return _parse(text, parser)
    except HydraException:
        return None


def _parse(text: str, parser: OverridesParser) -> Override:
    override = parser.parse_override(text)
    override.config_loader = parser.config_loader  # `parse_overrides` does it too: glob() asks it for choices
    return override


def explain(error: Exception, arguments: Sequence[str]) -> list[str] | None:
    """All that is wrong with a command line that Hydra refused; None where Hydra is not to blame.

    Args:
        error: what Hydra raised, which names the first problem alone.
        arguments: the command line after the program's name.
    """
    if not isinstance(error, COMPOSITION_ERRORS):
        return None
    if str(error).startswith("Only one of --run, --multirun, --cfg"):
        return [
            "--cfg and --info show one config and run nothing, so neither goes with -m (nor with each other). Leave -m"
            " out, and give each setting one value."
        ]
    typed = get_args(arguments)
    try:
        with hydra_app(typed.config_dir, typed.config_path) as hydra:
            found = _all_problems(typed.overrides, hydra, typed.config_name or CONFIG_NAME)
            if not _is_sweep(arguments):
                found += [
                    f"`{text}` has several values. Add -m to run a trial for each, or brackets to mean one list."
                    for text in swept(typed.overrides, hydra)
                ]
    except UsageError as unusable:  # the folder that configs are to come from
        return unusable.problems
    return found or _hydras_words(error) or None


def refusal(error: Exception, overrides: Sequence[str], hydra: Hydra, config_name: str) -> list[str]:
    """All that is wrong with overrides that Hydra refused; at least what Hydra says, where that is an error of its own.

    Args:
        error: what Hydra raised.
        overrides: as typed, sweeps included.
        hydra: what refused them.
        config_name: the root config.
    """
    return _all_problems(overrides, hydra, config_name) or _hydras_words(error)


def _all_problems(overrides: Sequence[str], hydra: Hydra, config_name: str) -> list[str]:
    """Every problem of the overrides; none where the root config does not compose by itself, such as the user's own."""
    loader = hydra.config_loader

    def compose(values: Sequence[str]) -> DictConfig:
        return loader.load_configuration(config_name, list(values), RunMode.RUN)

    with contextlib.suppress(*COMPOSITION_ERRORS):
        compose([])
        return problems(overrides, compose, OverridesParser.create(config_loader=loader))
    return []


def _hydras_words(error: Exception) -> list[str]:
    """What Hydra says, where the error is one of its own; in our words where it names a setting."""
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return []
    in_our_words = words.of_setting(error) if isinstance(error, OmegaConfBaseException) else None
    return [in_our_words or words.first_line(error)]


def swept(overrides: Sequence[str], hydra: Hydra) -> list[str]:
    """The overrides that have several values."""
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    readable = {text: parsed(text, parser) for text in overrides}
    return [text for text, override in readable.items() if override is not None and override.is_sweep_override()]


def sweep_settings(hydra: Any) -> list[str]:
    """What was asked for of a sweep alone, as overrides; a config file may hold settings for all sweeps.

    Args:
        hydra: Hydra's node of the config.
    """
    kinds = ("hydra.sweeper.", "hydra/sweeper/")
    given = [text for text in hydra.overrides.hydra if text.lstrip("+~").startswith(kinds)]
    is_dry = hydra.sweeper.get("dry_run") and not any("hydra.sweeper.dry_run" in text for text in given)
    return [*given, *(["hydra.sweeper.dry_run=true"] if is_dry else [])]


def _is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command asks for a sweep; a preset does so in its file."""
    return any(text in ("-m", "--multirun") or text.startswith(("sweeps=", "hydra.mode=")) for text in arguments)


def _composed(axes: Sequence[Sequence[str]], compose: Compose, *, is_tolerant: bool = False) -> Iterator[Config]:
    """One config for each alternative, the other overrides at their first: sums, where the grid has products.

    Where it is tolerant, overrides that fit alone but not together are left out: the caller gives Hydra's message.
    """
    axes = [singles for singles in axes if singles]
    firsts = tuple(singles[0] for singles in axes)
    choices = [(*firsts[:i], single, *firsts[i + 1 :]) for i, singles in enumerate(axes) for single in singles]
    for choice in dict.fromkeys([firsts, *choices]):
        try:
            config = structured.resolve(compose(choice))
        except COMPOSITION_ERRORS:
            if not is_tolerant:
                raise
        else:
            yield config


def _composition_problem(override: str, compose: Compose, defaults: DictConfig) -> str | None:
    try:
        config = compose([override])
        key = override.split("=", 1)[0].lstrip("+~").split("@")[0]
        if "/" not in key:
            with own_hydra_node(config):
                OmegaConf.select(config, key, throw_on_resolution_failure=True, throw_on_missing=True)
    except COMPOSITION_ERRORS as error:
        return words.of_override(override, error, defaults)
    return None


def _form_problem(text: str, override: Override) -> str | None:
    """What is wrong with an override whatever its key's values may be."""
    key = override.key_or_group
    if override.is_delete() and is_declared(key):
        return f"No setting may be deleted, but `{text}` deletes {key}. Leave that out; `{key}=...` sets it."
    if override.is_sweep_override() and key.startswith(("hydra.", "hydra/")):
        return f"{key} must have one value, since it is the same for a whole sweep. Run a sweep for each."
    if _is_nested(override):
        return (
            f"`{text}` must be a list of single values, or one interval, range or glob alone. Write out a range, and"
            " search an interval by itself."
        )
    return None


def _is_nested(override: Override) -> bool:
    """Whether a list holds what itself stands for several values; Hydra fails over them later on."""
    value = override.value()
    return isinstance(value, ChoiceSweep) and any(isinstance(one, Sweep | Glob) for one in value.list)
