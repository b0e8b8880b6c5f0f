"""lowrung in Python: what ``import lowrung`` offers, for scripts and notebooks. See docs/python.md."""

import contextlib
import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.hydra import Hydra
from hydra.types import RunMode

from lowrung import cli
from lowrung.config import commandline, grammar
from lowrung.config.hydra_app import CONFIG_NAME, hydra_app
from lowrung.engine import cores, gpus
from lowrung.errors import LowrungError, RunFailed, UsageError
from lowrung.report import leaderboard
from lowrung.report.leaderboard import TrialRow
from lowrung.report.planned import PlannedSweep
from lowrung.runs import task
from lowrung.runs.single import SingleRun
from lowrung.store.outcome import Outcome
from lowrung.sweeps.results import Results

if TYPE_CHECKING:
    from pandas import DataFrame

    from lowrung.report.verdict import Verdict

Overrides = str | Sequence[str]
"""One Hydra override, such as ``"lora.r=4"``, or several."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOutcome(Outcome):
    """How a single run ended, and where its results are.

    Attributes:
        folder: the run's, in the store.
        adapter: the folder of the trained adapter, or of the model where all weights were trained.
    """

    folder: Path
    adapter: Path


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """A sweep's trials.

    Attributes:
        trials: best first; then those that break a constraint, then those that are not complete.
        best: the first of them, where it is complete, keeps to all constraints and has a finite first objective.
        objectives: metrics with ``minimize`` or ``maximize``; the first one ranks the trials.
        folder: the study's.
        verdict: which trials tie with the best, which one to take, and what the data do not allow to say. Its
            ``standings`` hold each trial's difference from the best, with its interval.
        plan: of a dry run, which has no trials, what would be run and what that would take.
    """

    trials: Sequence[TrialRow]
    best: TrialRow | None
    objectives: Mapping[str, str]
    folder: Path
    verdict: "Verdict | None" = None
    plan: PlannedSweep | None = None

    def to_pandas(self) -> "DataFrame":
        """A row for each trial, best first: its settings, metrics and measurements by their names, and the rest.

        With stages ``stage`` names those that a trial counts for, and the last stage comes first.
        With several objectives ``pareto`` says whether no other trial is better in all of them.
        ``against_best`` is ``best``, ``tie``, ``worse``, or ``unknown`` where a trial could not be compared;
        ``difference`` and ``half_width`` are its interval, and ``tie`` says whether it ties with the best.
        ``results`` is the folder of the trial's run, or with several seeds the first run; `TrialRow.seeds` has all.
        """
        import pandas

        in_front = leaderboard.pareto_set(self.trials, self.objectives) if len(self.objectives) > 1 else None
        return pandas.DataFrame([{**_cells(row, in_front), **self._against_best(row)} for row in self.trials])

    def _against_best(self, row: TrialRow) -> dict[str, Any]:
        """Where a trial stands; nothing for one that takes no part, such as a pruned one."""
        standing = self.verdict.standings.of.get(row.number) if self.verdict else None
        return {
            "against_best": None if standing is None else str(standing.place),
            "difference": None if standing is None else standing.difference,
            "half_width": None if standing is None else standing.half_width,
            "tie": standing is not None and standing.place in ("best", "tie"),
        }

    def __str__(self) -> str:
        """The table and the verdict as the command line prints them."""
        if self.verdict is None:
            return leaderboard.render(self.trials, self.objectives)
        return f"{leaderboard.render(self.trials, self.objectives, self.verdict.cells)}\n\n{self.verdict}"


def run(*overrides: Overrides, config_dir: str | Path | None = None) -> RunOutcome:
    """Trains one run, as `lowrung train` does; a result that the store has is not trained again.

    Results go to the current folder, or to ``store=...``. Ctrl-C, or a notebook's stop, once ends the run after its
    step, with a checkpoint; the same call goes on from there.

    Args:
        overrides: Hydra overrides such as ``"lora.r=4"``, one by one or in lists.
        config_dir: a folder with configs of yours, as ``--config-dir``.

    Returns:
        the complete run's outcome.

    Raises:
        UsageError: when it cannot be run as asked; ``problems`` lists all that is in the way.
        RunFailed: when it did not complete; ``results`` is its outcome.
        KeyboardInterrupt: when it was stopped.
    """
    texts = _texts(overrides)
    with _environment_put_back(), hydra_app(config_dir) as hydra:
        composed = _composed(hydra, texts)
        if problems := [f"`{text}` has several values. {_CALL_SWEEP}" for text in commandline.swept(texts, hydra)]:
            raise UsageError(problems)
        if composed.hydra.mode is RunMode.MULTIRUN:
            raise UsageError(f"{_ONE}, but a preset asks for a sweep. {_CALL_SWEEP}")
        if given := commandline.sweep_settings(composed.hydra):
            raise UsageError([f"{_ONE}, but {text} is for sweeps. Call lowrung.sweep." for text in given])
        try:
            single = hydra.run(CONFIG_NAME, _task, texts, with_log_configuration=False).return_value
            if isinstance(single, LowrungError):
                raise single
        except RunFailed as failure:
            failure.results = _run_outcome(failure.results)
            raise
        return _run_outcome(single)


def sweep(*overrides: Overrides, config_dir: str | Path | None = None) -> Leaderboard:
    """Runs a sweep, as ``lowrung train -m`` does, and prints its leaderboard. Each run has a process of its own.

    Results go to the current folder, or to ``store=...``. Ctrl-C, or a notebook's stop, once ends the runs after their
    steps, with checkpoints; the same call goes on from there, and answers what is there from the store.

    Args:
        overrides: Hydra overrides such as ``"lora.r=4,8"``, one by one or in lists.
        config_dir: a folder with configs of yours, as ``--config-dir``.

    Returns:
        all trials; none for a dry run.

    Raises:
        UsageError: before anything has started; ``problems`` lists all that is in the way.
        RunFailed: when a trial failed; ``results`` is the leaderboard, and the others' results are kept.
        KeyboardInterrupt: when it was stopped.
    """
    texts = _texts(overrides)
    with _environment_put_back(), hydra_app(config_dir) as hydra:
        composed = _composed(hydra, texts)
        if (sweeper := composed.hydra.runtime.choices["hydra/sweeper"]) != "lowrung":
            raise UsageError(f"hydra/sweeper must be lowrung in lowrung.sweep, but is {sweeper}. Leave it out.")
        mode = [] if composed.hydra.mode is RunMode.MULTIRUN else ["hydra.mode=MULTIRUN"]
        try:
            results = hydra.multirun(CONFIG_NAME, task.run, [*texts, *mode], with_log_configuration=False)
        except RunFailed as failure:
            failure.results = _leaderboard(failure.results)
            raise
        return _leaderboard(results)


_ONE = "lowrung.run trains one run"
_CALL_SWEEP = "Call lowrung.sweep to run a trial for each."


def _texts(overrides: Sequence[Overrides]) -> list[str]:
    texts = [text for given in overrides for text in ([given] if isinstance(given, str) else given)]
    cli.refuse_secrets(texts)
    return [grammar.as_typed(text) for text in texts]


def _composed(hydra: Hydra, overrides: Sequence[str]) -> Any:
    """The config, Hydra's node included; sweeps are let through.

    Raises:
        UsageError: with all that is wrong with the overrides.
    """
    try:
        return hydra.compose_config(
            CONFIG_NAME,
            list(overrides),
            run_mode=RunMode.MULTIRUN,
            with_log_configuration=False,
            validate_sweep_overrides=False,
        )
    except commandline.COMPOSITION_ERRORS as error:
        raise UsageError(commandline.refusal(error, overrides, hydra, CONFIG_NAME)) from None


def _task(composed: Any) -> SingleRun | LowrungError:
    """What Hydra calls. Errors that are foreseen are returned: Hydra prints lines of its own for what is raised."""
    try:
        single = task.run(composed)
        assert isinstance(single, SingleRun)
    except LowrungError as error:
        return error
    return single


def _run_outcome(single: Any) -> RunOutcome:
    folder = single.folder
    fields = {field.name: getattr(single.outcome, field.name) for field in dataclasses.fields(Outcome)}
    return RunOutcome(**fields, folder=folder.path, adapter=folder.model if folder.model.is_dir() else folder.adapter)


def _leaderboard(results: Results) -> Leaderboard:
    verdict = results.answer.verdict
    trials, folder = tuple(results.trials), results.folder.path
    return Leaderboard(trials, results.best, results.objectives, folder, verdict, results.planned)


def _cells(row: TrialRow, in_front: Collection[int] | None) -> dict[str, Any]:
    """A trial as a frame's row, with the numbers in its point as numbers."""
    outcome = row.outcome
    return {
        "trial": row.number,
        **({"stage": row.stage} if row.stage else {}),
        **{key: _value(text) for key, text in row.point.items()},
        "status": str(outcome.status),
        **outcome.numbers,
        **({} if in_front is None else {"pareto": row.number in in_front}),
        "broken": ", ".join(row.broken),
        "reused": row.is_reused,
        "cause": outcome.cause,
        "results": row.seeds[0].folder if row.seeds else None,
    }


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


@contextlib.contextmanager
def _environment_put_back() -> Iterator[None]:
    """Puts back the variables that a run or sweep sets for its own process."""
    with cores.environment_kept((gpus.VISIBLE, cli.SPINS)):
        os.environ.setdefault(cli.SPINS, cli.FEW_SPINS)
        yield
