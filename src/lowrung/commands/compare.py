"""`lowrung compare`: in which settings runs differ, their results, and the answers of their models."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.commands.arguments import ADAPTER, Commands, add_new_tokens, add_trust
from lowrung.commands.generate import generate, prompt_problems, side_by_side
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


def _run(chosen: argparse.Namespace) -> None:
    options = {"new_tokens": chosen.new_tokens, "trust_remote_code": chosen.trust_remote_code}
    for position, part in enumerate(compare(chosen.runs, chosen.prompt, **options)):
        print("\n" * bool(position) + part, flush=True)


def compare(
    names: Sequence[str], prompts: Sequence[str] = (), *, new_tokens: int, trust_remote_code: bool = False
) -> Iterator[str]:
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
    statuses = [str(outcome.status) if outcome else "unfinished" for outcome in outcomes]
    metrics = _columns([outcome.metrics if outcome else {} for outcome in outcomes])
    yield _table("settings that differ", names, _differing([_flat(config_of(run)) for run in runs.values()]))
    yield _table("result", names, {"status": statuses, **metrics})
    if new_tokens:
        trained = [name for name, status in zip(names, statuses, strict=True) if status == Status.COMPLETE]
        yield _answers(trained, runs[names[0]], prompts, new_tokens, trust_remote_code)


def _run_problems(runs: Mapping[str, RunFolder]) -> list[str]:
    return [
        f"{name} must be a run or an adapter in a run's folder, but {run.path} holds no run's config.yaml."
        " For an adapter without a run use lowrung generate or lowrung inspect."
        for name, run in runs.items()
        if not run.config.is_file()
    ]


def _answers(
    names: Sequence[str], first: RunFolder, prompts: Sequence[str], new_tokens: int, trust_remote_code: bool
) -> str:
    """Each prompt with a line for the answer of each run that is complete, or why there are no answers."""
    if not names:
        return "no answers: no run is complete"
    try:
        prompts = prompts or held_out_prompts(first, PROMPTS)
    except UsageError as error:
        return f"no answers: {' '.join(error.problems)} Or give a prompt: --prompt TEXT."
    if not prompts:
        return "no answers: the first run's data has no prompts. Give one: --prompt TEXT."
    answers = generate(names, prompts, new_tokens=new_tokens, trust_remote_code=trust_remote_code)
    return side_by_side(prompts, answers)


def _table(title: str, names: Sequence[str], values: Mapping[str, Sequence[str]]) -> str:
    return table([title, *names], [[name, *cells] for name, cells in values.items()], left=(title,))


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if above or key not in NOT_COMPARED:
            flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    settings = dict.fromkeys(setting for config in configs for setting in config)
    values = {setting: [config.get(setting) for config in configs] for setting in settings}
    return {
        setting: [_shown(value) for value in each]
        for setting, each in values.items()
        if any(value != each[0] for value in each)
    }


def _columns(metrics: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    names = sorted({name for values in metrics for name in values})
    return {name: [_shown(values.get(name)) for values in metrics] for name in names}


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return number(value) if isinstance(value, float) else str(value)
