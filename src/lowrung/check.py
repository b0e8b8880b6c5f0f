"""Is this config possible? Pure: no device, no disk, no network; every problem at once, in the user's spelling.

What needs a look at model and data is checked by `lowrung.finetune.preflight`, before the first run.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lowrung import schema
from lowrung.schema import Config, LoraConf, TrainConf, VerifyConf

Compose = Callable[[Sequence[str]], DictConfig]
"""Composes a config, Hydra's own node included, from overrides; raises what Hydra raises."""

SPELLINGS = {"rank": "lora.r", "lr": "train.learning_rate", "steps": "train.max_steps", "rslora": "lora.use_rslora"}
"""What people type when they mean a setting whose name looks different."""


COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError)
"""What Hydra raises for an override that it cannot take; ``lora=4`` is a ValueError."""

_WHOLE = "a whole number"


def alternatives(override: Override) -> list[str]:
    """The single values that an override stands for, each as an override: an interval stands for its ends."""
    key = override.get_key_element()
    if override.is_interval_sweep():
        sweep = interval(override)
        return [f"{key}={end}" for end in (sweep.start, sweep.end)]
    if override.is_sweep_override():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [override.input_line or ""]


def interval(override: Override) -> IntervalSweep:
    """The interval that an override sweeps over; whole ends mean that whole numbers are drawn."""
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep)
    return sweep


def rules(config: Config) -> list[str]:
    """The rules that span types: ranges, choices and pairs of fields."""
    return [
        *_undeclared(config),
        *_data_rules(config),
        *_lora_rules(config.lora),
        *_train_rules(config.train),
        *_verify_rules(config.verify),
    ]


def problems(
    overrides: Sequence[str], compose: Compose, parser: OverridesParser, hold: Callable[[Config], list[str]] = rules
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
            axes.append(_Axis(override, alternatives(override)))
        except (HydraException, ValueError) as error:
            found.append(f"`{text}` cannot be read: {_first_line(error)}. Quote values with special characters.")
    try:
        configs = list(_composed([axis.singles for axis in axes], compose))
    except COMPOSITION_ERRORS:  # rare, so only now is each composed alone
        defaults = compose([])
        for axis in axes:
            found += axis.take_out_misfits(compose, defaults)
        configs = list(_composed([axis.singles for axis in axes], compose, is_tolerant=True))
    for config in configs:
        found.extend(problem for problem in hold(config) if problem not in found)
    return found


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
        return [problem + (hint if _WHOLE in problem else "") for problem in problems.values() if problem]


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
    from hydra import initialize_config_dir
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from lowrung.layout import ROOT

    overrides = [argument for argument in arguments if not argument.startswith("-") and "=" in argument]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        loader = hydra.config_loader
        assert isinstance(loader, ConfigLoaderImpl)

        def compose(values: Sequence[str]) -> DictConfig:
            return loader.load_configuration("config", list(values), RunMode.RUN)

        parser = OverridesParser.create(config_loader=loader)
        found = problems(overrides, compose, parser)
        if not _is_sweep(arguments):
            found += _sweep_problems(overrides, parser)
    is_hydras = isinstance(error, HydraException | OmegaConfBaseException)
    return found or ([_first_line(error)] if is_hydras else None)


def _is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command asks for a sweep; a preset does so in its file."""
    return any(text in ("-m", "--multirun") or text.startswith(("sweeps=", "hydra.mode=")) for text in arguments)


def _sweep_problems(overrides: Sequence[str], parser: OverridesParser) -> Iterator[str]:
    """Sweeps in a command that asks for one run."""
    for text in overrides:
        override = parsed(text, parser)
        if override is not None and override.is_sweep_override():
            yield f"`{text}` has several values. Add -m to run a trial for each, or brackets to mean one list."


OBJECTIVES = (
    "eval/loss",
    "eval/perplexity",
    "eval/token_accuracy",
    "eval/exact_match",
    "params/trainable",
    "adapter/bytes",
)
"""The metrics that a sweep can optimise."""


def objective_problems(objectives: Any) -> list[str]:
    """What is wrong with what a sweep is to optimise."""
    if not isinstance(objectives, Mapping):
        return [f"hydra.sweeper.objectives must be pairs such as {{eval/loss:minimize}}, but is {objectives!r}."]
    found = [] if objectives else ["hydra.sweeper.objectives must name a metric, but is empty."]
    for name, direction in objectives.items():
        found += _one_of("hydra.sweeper.objectives", name, OBJECTIVES)
        found += _one_of(f"hydra.sweeper.objectives.{name}", direction, ("minimize", "maximize"))
    return found


def answer_problems(config: Config, objectives: Mapping[str, str]) -> list[str]:
    """An objective that this config's task never scores."""
    if "eval/exact_match" not in objectives or config.data.name in schema.ANSWERED:
        return []
    return [
        "hydra.sweeper.objectives must name metrics that the task has, but eval/exact_match needs one right answer,"
        f" and data.name is {config.data.name!r}. Use data={schema.ANSWERED[0]}, or another metric."
    ]


def _undeclared(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys that were added with ``+``: nothing would read them."""
    declared = [field.name for field in dataclasses.fields(node)]
    for name in vars(node):
        if name not in declared:
            yield f"{prefix}{name} is not a setting.{_suggest_key(prefix + name, list(_declared(Config)))}"
    for name in declared:
        child = getattr(node, name)
        if dataclasses.is_dataclass(child):
            yield from _undeclared(child, f"{prefix}{name}.")


def _declared(kind: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all that a config dataclass declares."""
    for field in dataclasses.fields(kind):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from _declared(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _data_rules(config: Config) -> Iterator[str]:
    yield from _one_of("model.dtype", config.model.dtype, ("auto", *schema.DTYPES))
    yield from _one_of("data.name", config.data.name, schema.DATASETS)
    yield from _one_of("track.kind", config.track.kind, schema.TRACKERS)
    yield from _at_least("data.train_size", config.data.train_size, 1)
    yield from _at_least("data.eval_size", config.data.eval_size, 1)
    yield from _at_least("data.max_length", config.data.max_length, 8)
    yield from _at_least("seed", config.seed, 0)


def _lora_rules(lora: LoraConf) -> Iterator[str]:
    yield from _at_least("lora.r", lora.r, 1, "a rank of 0 trains nothing")
    if lora.r >= 1:  # alpha follows r by default: one mistake, one message
        yield from _above("lora.alpha", lora.alpha, 0)
    if not 0 <= lora.dropout < 1:
        yield f"lora.dropout must be in [0, 1), but is {lora.dropout}. Use 0 for no dropout."
    targets = lora.target_modules
    named = isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets)
    if targets != "all-linear" and not named:
        yield f"lora.target_modules must be all-linear or a list such as [q_proj,v_proj], but is {targets!r}."


def _train_rules(train: TrainConf) -> Iterator[str]:
    yield from _above("train.learning_rate", train.learning_rate, 0)
    for name in ("max_steps", "batch_size", "eval_batch_size", "gradient_accumulation_steps", "eval_steps"):
        yield from _at_least(f"train.{name}", getattr(train, name), 1)
    yield from _one_of("train.lr_scheduler_type", train.lr_scheduler_type, schema.SCHEDULES)
    if not 0 <= train.warmup_ratio <= 1:
        yield f"train.warmup_ratio must be in [0, 1], but is {train.warmup_ratio}. It is a share of the steps."
    if not train.weight_decay >= 0:
        yield f"train.weight_decay must be at least 0, but is {train.weight_decay}."


def _verify_rules(verify: VerifyConf) -> Iterator[str]:
    yield from _at_least("verify.prompts", verify.prompts, 1)
    yield from _at_least("verify.new_tokens", verify.new_tokens, 1)
    yield from _one_of("verify.merge_dtype", verify.merge_dtype, schema.DTYPES)
    for dtype in {"float32", verify.merge_dtype} & set(schema.DTYPES):
        if dtype not in verify.tolerances:
            yield f"verify.tolerances must have an entry for {dtype}, but has {', '.join(verify.tolerances) or 'none'}."


def _at_least(name: str, value: float, least: float, why: str = "") -> Iterator[str]:
    if value < least:
        yield f"{name} must be at least {least}, but is {value}" + (f": {why}." if why else ".")


def _above(name: str, value: float, limit: float) -> Iterator[str]:
    if not value > limit:
        yield f"{name} must be above {limit}, but is {value}."


def _one_of(name: str, value: str, choices: Sequence[str]) -> Iterator[str]:
    if value not in choices:
        yield f"{name} must be one of {', '.join(choices)}, but is {value!r}.{_did_you_mean(value, choices)}"


def _did_you_mean(value: str, choices: Sequence[str], text: str = " Did you mean {}?") -> str:
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return text.format(close[0]) if close else ""


def _composed(axes: Sequence[Sequence[str]], compose: Compose, *, is_tolerant: bool = False) -> Iterator[Config]:
    """One config for each alternative, the other overrides at their first: sums, where the grid has products.

    Where it is tolerant, overrides that fit alone but not together are left out: the caller gives Hydra's message.
    """
    axes = [singles for singles in axes if singles]
    firsts = tuple(singles[0] for singles in axes)
    choices = [(*firsts[:i], single, *firsts[i + 1 :]) for i, singles in enumerate(axes) for single in singles]
    for choice in dict.fromkeys([firsts, *choices]):
        try:
            config = schema.resolve(compose(choice))
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
            OmegaConf.select(config, key, throw_on_resolution_failure=True, throw_on_missing=True)
    except COMPOSITION_ERRORS as error:
        return _in_our_words(override, error, defaults)
    return None


def _in_our_words(override: str, error: Exception, defaults: DictConfig) -> str:
    key, _, value = override.lstrip("+~").partition("=")
    text = f"{error}\n{error.__cause__ or ''}"
    available = re.search(r"Available options in '(.*?)':\n((?:\t.*\n?)+)", text)
    if available:
        options = available.group(2).split()
        return f"{key} must be one of {', '.join(options)}, but is {value!r}.{_did_you_mean(value, options)}"
    is_known = "/" not in key and "@" not in key and OmegaConf.select(defaults, key) is not None
    is_refused = "is not in struct" in text or re.search(r"Key '.*' not in '", text) or "Could not override" in text
    if is_refused and not is_known:
        return f"{key} is not a setting.{_suggest_key(key, list(_leaves(defaults)))}"
    kind = re.search(r"could not be converted to (\w+)|is not a valid (\w+)", text)
    if kind:
        names = {"Integer": _WHOLE, "Float": "a number", "bool": "true or false", "Boolean": "true or false"}
        wanted = kind.group(1) or kind.group(2)
        return f"{key} must be {names.get(wanted, wanted)}, but is {value!r}."
    return f"`{override}` is refused: {_first_line(error)}"


def _suggest_key(key: str, keys: Sequence[str]) -> str:
    last = key.rsplit(".", 1)[-1]
    same_name = [known for known in keys if known.rsplit(".", 1)[-1] == last]
    if last in SPELLINGS or same_name:
        return f" Did you mean {SPELLINGS.get(last) or same_name[0]}?"
    return _did_you_mean(key, keys) or " `python src/train.py --help` lists all settings."


def _leaves(config: DictConfig) -> Iterator[str]:
    """Dotted names of all settings: ours, and the sweeper's and the launcher's."""
    for group in ("model", "data", "lora", "train", "verify", "track", "hydra.sweeper", "hydra.launcher"):
        node = OmegaConf.select(config, group)
        yield from (f"{group}.{name}" for name in node if not str(name).startswith("_"))
    yield from ("seed", "study", "store")


def _first_line(error: Exception) -> str:
    return (str(error) or str(error.__cause__) or type(error).__name__).strip().splitlines()[0]
