"""One run, from its config to ``outcome.json``."""

import dataclasses
import functools
import os
import shutil
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lowrung.config import machine, schema
from lowrung.costs.facts import Planned
from lowrung.errors import StoreError, is_out_of_memory
from lowrung.runs import parallel
from lowrung.runs.computation import Computation
from lowrung.runs.parallel import OnReport, StopReason
from lowrung.store import disk, mailbox, parts, results
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.track.base import Point

if TYPE_CHECKING:
    from lowrung.finetune.training.ranks import Ranks

_INTERRUPTED = Outcome(Status.CANCELLED, cause="interrupted")


def execute(
    computation: Computation,
    *,
    claim: str,
    planned: Planned | None,
    on_point: Callable[[Point], None],
    stop_reason: Callable[[], str | None],
) -> Outcome:
    """Trains and verifies, and writes ``outcome.json`` however the run ends.

    A run that was interrupted goes on from its last checkpoint. Its checkpoints are deleted when it is complete.

    Args:
        computation: what is computed, in a folder that this process has locked.
        claim: of the job that runs it; see `lowrung.store.results.claim`.
        planned: what was predicted of it, which its outcome records; None where nothing was.
        on_point: called with each point of the run's history, after it was posted to the mailbox.
        stop_reason: asked after every step: None, or ``pruned`` or ``cancelled`` to end with a checkpoint.

    Raises:
        StoreError: when ``outcome.json`` cannot be written; the message gives the status of the run.
        TakenBack: when the folder was given to another job, before the run or meanwhile.
    """
    folder = computation.folder
    results.require_claim(folder, claim)

    def on_report(step: int, metrics: Mapping[str, float]) -> None:
        moment, seconds = clock.moment(step, metrics)
        point = Point(step, moment, dict(metrics), seconds)
        mailbox.post(folder.path, dataclasses.asdict(point))
        on_point(point)

    clock, is_resumed = parts.Clock(folder), parts.last_checkpoint(folder) > 0
    outcome = _run(computation, on_report, stop_reason)
    done = clock.stop()
    took = {"time/total_seconds": sum(part.seconds for part in done)}
    by = {"machine": machine.described(), "is_resumed": is_resumed, **parts.as_fact(done)}
    outcome = dataclasses.replace(
        outcome,
        measurements={**outcome.measurements, **took},
        facts={**outcome.facts, **by},
    )
    outcome = _beside(planned, outcome) if planned else outcome
    outcome = _save(outcome, folder, claim)  # before anything is deleted: a run that is killed now is not trained again
    tidy(folder, outcome)
    return outcome


def _beside(planned: Planned, outcome: Outcome) -> Outcome:
    """The outcome with what was predicted of the run."""
    measurements = {**outcome.measurements, **planned.numbers}
    return dataclasses.replace(outcome, measurements=measurements, facts={**outcome.facts, "plan": planned.facts})


def _run(computation: Computation, on_report: OnReport, stop_reason: StopReason) -> Outcome:
    """The outcome of this process, or of those of its ranks, for which this one imports nothing."""
    train, threads = computation.config.train, computation.threads
    if train.rank_count == 1:
        from lowrung.finetune.training.ranks import ALONE

        return _run_as(ALONE, computation, on_report, stop_reason)
    of_each = schema.threads_of_a_rank(train, threads)
    work = functools.partial(_run_joined, dataclasses.replace(computation, threads=of_each))
    try:
        return parallel.Launch(work, train.rank_count, of_each, computation.folder).run(on_report, stop_reason)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        return _failure(error, computation.folder)


def _run_joined(computation: Computation, place: parallel.Place) -> None:
    """The same in a process of one of the ranks."""
    from lowrung.finetune.training import ranks

    def run() -> Outcome:
        return _run_as(ranks.join(place.rank, place.count, place.meeting), computation, place.report, place.stop_reason)

    place.end(_outcome_of(run, computation.folder, {}, place.stop_reason))


def _run_as(ranks: "Ranks", computation: Computation, on_report: OnReport, stop_reason: StopReason) -> Outcome:
    """The outcome of all that this process does for the run."""
    from lowrung.finetune.training import memory

    scores: dict[str, float] = {}

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if "eval/loss" in metrics:
            scores.setdefault("base/eval_loss", metrics["eval/loss"])
            scores.update({name: value for name, value in metrics.items() if name.startswith("eval/")})
        on_report(step, metrics)

    def run() -> Outcome:
        return computation.outcome(ranks, report, lambda: stop_reason() is not None)

    outcome = _outcome_of(run, computation.folder, scores, stop_reason)
    peak = max(memory.peak_bytes(), outcome.measurements.get("memory/peak_bytes", 0))  # before a checkpoint it was more
    return dataclasses.replace(outcome, measurements={**outcome.measurements, "memory/peak_bytes": peak})


def _outcome_of(
    run: Callable[[], Outcome], folder: RunFolder, scores: Mapping[str, float], stop_reason: StopReason
) -> Outcome:
    """The outcome that the run returns, or the one that its exception means; ``scores`` are the last evaluation's."""
    from lowrung.finetune.training.callbacks import Diverged, Stopped

    try:
        return run()
    except Stopped as error:
        status = Status(stop_reason() or Status.CANCELLED)
        return Outcome(status, {**scores, "stopped/step": error.step}, cause=str(error))
    except Diverged as error:
        return Outcome(Status.DIVERGED, {"diverged/step": error.step}, cause=str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        return _failure(error, folder)


def _failure(error: Exception, folder: RunFolder) -> Outcome:
    """The outcome that an error means. On a full disk, half-written files are deleted to make room for it."""
    from lowrung.finetune.training import checkpoints

    if disk.is_full(error, folder.path):
        for half in (folder.adapter, folder.model, folder.merged, folder.scratch):
            shutil.rmtree(half, ignore_errors=True)
        checkpoints.delete_torn(folder.checkpoints)
        return Outcome(Status.FAILED, cause=_no_space(folder))
    status = Status.OOM if is_out_of_memory(error) else Status.FAILED
    return Outcome(status, cause=f"{type(error).__name__}: {error}".splitlines()[0])


def _no_space(folder: RunFolder) -> str:
    return f"no space left on the disk of {folder.path}; free some, and the same command goes on"


def _save(outcome: Outcome, folder: RunFolder, claim: str) -> Outcome:
    try:
        return results.save(outcome, folder, claim)
    except OSError as error:
        lost = f"the outcome ({outcome.status}) cannot be written: {error}"
        cause = _no_space(folder) if disk.is_full(error, folder.path) else lost
        raise StoreError(outcome.cause or cause) from error


def tidy(folder: RunFolder, outcome: Outcome) -> None:
    """Deletes what a run that has ended no longer needs; its process may have been killed before it did."""
    if outcome.status is Status.COMPLETE:
        folder.tracked.unlink(missing_ok=True)
        folder.earlier_reports.unlink(missing_ok=True)
        if folder.checkpoints.exists():  # moved first: a run must never go on from a checkpoint that is half deleted
            folder.scratch.mkdir(exist_ok=True)
            os.replace(folder.checkpoints, folder.scratch / folder.checkpoints.name)
    shutil.rmtree(folder.scratch, ignore_errors=True)
