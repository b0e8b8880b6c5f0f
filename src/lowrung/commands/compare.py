"""`lowrung compare`: in which settings runs differ, their results, and the answers of their models."""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.commands.arguments import ADAPTER, Commands, add_new_tokens, add_trust
from lowrung.commands.generate import Answer, by_prompt, generate, prompt_problems
from lowrung.commands.names import find_runs
from lowrung.commands.run_inputs import config_of, held_out_prompts
from lowrung.errors import UsageError, blaming
from lowrung.report.tables import number, table
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status

ABOUT = (
    "Prints the settings in which runs differ, how each ended, and all metrics, with a column for each run; then the"
    " answers of each to the same prompts, generated greedily. Adapters on the same base share it."
)

NOT_COMPARED = ("study", "store", "sweeps", "track")
"""Groups that say where a run was recorded; they change nothing about it."""

PROMPTS = 2
"""How many held-out prompts are answered, unless prompts are given."""


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("compare", help="compare settings, metrics and answers of runs", description=ABOUT)
    parser.add_argument("runs", metavar="RUN", nargs="+", help=f"two or more, each {ADAPTER}")
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        help="a prompt; may be given several times (default: two held-out prompts of the first run's data)",
    )
    add_new_tokens(parser, "; 0 generates none")
    add_trust(parser)
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> "Iterator[Differing | Compared | Asked]":
    options = {"new_tokens": chosen.new_tokens, "trust_remote_code": chosen.trust_remote_code}
    return compare(chosen.runs, chosen.prompt, **options)


@dataclasses.dataclass(frozen=True)
class Differing:
    """The settings in which runs differ.

    Attributes:
        settings: by dotted name, then by the run's name; null where a run has no such setting.
    """

    settings: Mapping[str, Mapping[str, Any]]

    def __str__(self) -> str:
        """A table with a column for each run."""
        if not self.settings:
            return "no settings differ"
        names = list(next(iter(self.settings.values())))
        return _table("settings that differ", names, {key: list(of.values()) for key, of in self.settings.items()})


@dataclasses.dataclass(frozen=True)
class Compared:
    """How runs ended.

    Attributes:
        runs: by name.
    """

    runs: "Mapping[str, RunResult]"

    def __str__(self) -> str:
        """A table with a column for each run."""
        found = list(self.runs.values())
        metrics = sorted({name for one in found for name in one.metrics})
        rows = {name: [one.metrics.get(name) for one in found] for name in metrics}
        return _table("result", list(self.runs), {"status": [one.status for one in found], **rows})


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        folder: its results.
        status: as its outcome says; ``unfinished`` where it has none.
        metrics: exact results, by MLflow name.
    """

    folder: Path
    status: str
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Asked:
    """The answers of the runs' models.

    Attributes:
        answers: to each prompt, by the run's name; none where nothing was asked.
        not_asked: why there are none; null where there are.
    """

    answers: Sequence[Answer] = ()
    not_asked: str | None = None

    def __str__(self) -> str:
        """Each prompt with a line for each answer."""
        return f"no answers: {self.not_asked}" if self.not_asked else "\n\n".join(map(str, self.answers))


def compare(
    names: Sequence[str], prompts: Sequence[str] = (), *, new_tokens: int, trust_remote_code: bool = False
) -> Iterator[Differing | Compared | Asked]:
    """The settings in which runs differ, how each ended with all their metrics, a column a run, and their answers.

    Args:
        names: two or more runs, trials, or adapters of runs.
        prompts: for their models; none for the first held-out prompts of the first run's data.
        new_tokens: the most tokens of an answer; 0 generates none, and loads no model.
        trust_remote_code: run Python code that comes with their models.

    Yields:
        each part as soon as it is known: models take longer.

    Raises:
        UsageError: when there are fewer than two, one is no run, or its model cannot be loaded.
    """
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise UsageError(f"compare needs at least two runs, but has {len(names)}. Name another.")
    runs = dict(zip(names, find_runs(names, Path.cwd()), strict=True))
    if problems := [*_run_problems(runs), *prompt_problems(prompts, new_tokens, least=0)]:
        raise UsageError(problems)
    with blaming("The records of " + " or ".join(names)):
        outcomes = [Outcome.read(run.outcome) for run in runs.values()]
    ended = {
        name: RunResult(run.path, *(("unfinished", {}) if outcome is None else (str(outcome.status), outcome.metrics)))
        for (name, run), outcome in zip(runs.items(), outcomes, strict=True)
    }
    yield Differing(_differing({name: _flat(config_of(run)) for name, run in runs.items()}))
    yield Compared(ended)
    if new_tokens:
        trained = [name for name, one in ended.items() if one.status == Status.COMPLETE]
        yield _answers(trained, runs[names[0]], prompts, new_tokens, trust_remote_code)
    else:
        yield Asked()


def _run_problems(runs: Mapping[str, RunFolder]) -> list[str]:
    return [
        f"{name} must be a run or an adapter in a run's folder, but {run.path} holds no run's config.yaml."
        " For an adapter without a run use lowrung generate or lowrung inspect."
        for name, run in runs.items()
        if not run.config.is_file()
    ]


def _answers(
    names: Sequence[str], first: RunFolder, prompts: Sequence[str], new_tokens: int, trust_remote_code: bool
) -> Asked:
    """The answers of each run that is complete, or why there are none."""
    if not names:
        return Asked(not_asked="no run is complete")
    try:
        prompts = prompts or held_out_prompts(first, PROMPTS)
    except UsageError as error:
        return Asked(not_asked=f"{' '.join(error.problems)} Or give a prompt: --prompt TEXT.")
    if not prompts:
        return Asked(not_asked="the first run's data has no prompts. Give one: --prompt TEXT.")
    answers = generate(names, prompts, new_tokens=new_tokens, trust_remote_code=trust_remote_code)
    return Asked(by_prompt(prompts, answers))


def _table(title: str, names: Sequence[str], values: Mapping[str, Sequence[Any]]) -> str:
    return table([title, *names], [[name, *map(_shown, cells)] for name, cells in values.items()], left=(title,))


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if above or key not in NOT_COMPARED:
            flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _differing(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    settings = dict.fromkeys(setting for config in configs.values() for setting in config)
    values = {setting: {name: config.get(setting) for name, config in configs.items()} for setting in settings}
    return {setting: each for setting, each in values.items() if _differ(list(each.values()))}


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values[1:])


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return number(value) if isinstance(value, float) else str(value)
