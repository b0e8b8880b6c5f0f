"""One run, from its config to ``outcome.json``."""

import dataclasses
import functools
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowrung.config import machine, schema
from lowrung.config.schema import Config
from lowrung.errors import StoreError, is_out_of_memory
from lowrung.runs import parallel
from lowrung.store import disk, mailbox, results
from lowrung.store.held_out import HeldOut
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.track.base import Point

if TYPE_CHECKING:
    from lowrung.finetune.gate.case import Evidence
    from lowrung.finetune.training.ranks import Ranks

OnReport = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its metrics, by MLflow name."""

_INTERRUPTED = Outcome(Status.CANCELLED, cause="interrupted")


def execute(
    config: Config,
    folder: RunFolder,
    *,
    claim: str,
    data: Path,
    base: Path,
    threads: int,
    on_point: Callable[[Point], None],
    stop_reason: Callable[[], str | None],
) -> Outcome:
    """Trains and verifies, and writes ``outcome.json`` however the run ends.

    A run that was interrupted goes on from its last checkpoint. Its checkpoints are deleted when it is complete.

    Args:
        config: the run's, which has been checked.
        folder: the run's, locked by this process and prepared.
        claim: of the job that runs it; see `lowrung.store.results.claim`.
        data: the folder with the examples as tokens.
        base: the folder of what is computed once of the base and these examples.
        threads: CPU threads.
        on_point: called with each point of the run's history, after it was posted to the mailbox.
        stop_reason: asked after every step: None, or ``pruned`` or ``cancelled`` to end with a checkpoint.

    Raises:
        StoreError: when ``outcome.json`` cannot be written; the message gives the status of the run.
        TakenBack: when the folder was given to another job, before the run or meanwhile.
    """
    results.require_claim(folder, claim)

    def on_report(step: int, metrics: Mapping[str, float]) -> None:
        point = Point(step, time.time(), dict(metrics))
        mailbox.post(folder.path, dataclasses.asdict(point))
        on_point(point)

    started, is_resumed = time.perf_counter(), folder.checkpoints.exists()
    outcome = _run(config, folder, data, base, threads, on_report, stop_reason)
    took = {"time/total_seconds": time.perf_counter() - started}
    by = {"machine": machine.described(), "is_resumed": is_resumed}
    outcome = dataclasses.replace(outcome, measurements={**outcome.measurements, **took}, facts={**outcome.facts, **by})
    outcome = _save(outcome, folder, claim)  # before anything is deleted: a run that is killed now is not trained again
    tidy(folder, outcome)
    return outcome


def _run(
    config: Config,
    folder: RunFolder,
    data: Path,
    base: Path,
    threads: int,
    on_report: OnReport,
    stop_reason: Callable[[], str | None],
) -> Outcome:
    """Trains and verifies in this process, or in those of its ranks, for which this one imports nothing."""
    if config.train.rank_count == 1:
        from lowrung.finetune.training.ranks import ALONE

        return _run_as(ALONE, config, folder, data, base, threads, on_report, stop_reason)
    of_each = schema.threads_of_a_rank(config.train, threads)
    work = functools.partial(_run_joined, config, folder, data, base, of_each)
    try:
        return parallel.Launch(work, config.train.rank_count, of_each, folder).run(on_report, stop_reason)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        return _failure(error, folder)


def _run_joined(config: Config, folder: RunFolder, data: Path, base: Path, threads: int, place: parallel.Place) -> None:
    """The same in a process of one of the ranks."""
    from lowrung.finetune.training import ranks

    def run() -> Outcome:
        joined = ranks.join(place.rank, place.count, place.meeting)
        return _run_as(joined, config, folder, data, base, threads, place.report, place.stop_reason)

    place.end(_outcome_of(run, folder, {}, place.stop_reason))


def _run_as(
    ranks: "Ranks",
    config: Config,
    folder: RunFolder,
    data: Path,
    base: Path,
    threads: int,
    on_report: OnReport,
    stop_reason: Callable[[], str | None],
) -> Outcome:
    """The outcome of all that this process does for the run."""
    from lowrung.finetune.training import memory

    scores: dict[str, float] = {}

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if "eval/loss" in metrics:
            scores.setdefault("base/eval_loss", metrics["eval/loss"])
            scores.update({name: value for name, value in metrics.items() if name.startswith("eval/")})
        on_report(step, metrics)

    def run() -> Outcome:
        is_to_stop = lambda: stop_reason() is not None  # noqa: E731
        return _train_and_verify(ranks, config, folder, data, base, threads, report, is_to_stop)

    outcome = _outcome_of(run, folder, scores, stop_reason)
    took = {"memory/peak_bytes": memory.peak_bytes()}
    return dataclasses.replace(outcome, measurements={**outcome.measurements, **took})


def _outcome_of(
    run: Callable[[], Outcome], folder: RunFolder, scores: Mapping[str, float], stop_reason: Callable[[], str | None]
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
        if folder.checkpoints.exists():  # moved first: a run must never go on from a checkpoint that is half deleted
            folder.scratch.mkdir(exist_ok=True)
            os.replace(folder.checkpoints, folder.scratch / folder.checkpoints.name)
    shutil.rmtree(folder.scratch, ignore_errors=True)


def _train_and_verify(
    ranks: "Ranks",
    config: Config,
    folder: RunFolder,
    data: Path,
    base: Path,
    threads: int,
    on_report: OnReport,
    should_stop: Callable[[], bool],
) -> Outcome:
    outcome, evidence = _train(ranks, config, folder, data, base, threads, on_report, should_stop)
    # The trained model has been freed by now: the gate needs its memory.
    return _verified(config, folder, base, outcome, evidence) if evidence else outcome


def _train(
    ranks: "Ranks",
    config: Config,
    folder: RunFolder,
    data: Path,
    base: Path,
    threads: int,
    on_report: OnReport,
    should_stop: Callable[[], bool],
) -> tuple[Outcome, "Evidence | None"]:
    from lowrung.finetune.data.prepared import Prepared
    from lowrung.finetune.data.template import Format
    from lowrung.finetune.gate.case import Evidence
    from lowrung.finetune.models import added_tokens, pretrained
    from lowrung.finetune.training import fine_tune

    rows = Prepared.load(data)
    trained = fine_tune.fine_tune(
        base=config.model,
        data=rows,
        lora=config.lora,
        train=config.train,
        max_length=config.data.max_length,
        format=Format.of(config.data),
        seed=config.seed,
        scores=config.data.metrics,
        threads=threads,
        folder=_weights(config, folder),
        base_folder=base,
        checkpoint_folder=folder.checkpoints,
        on_report=on_report,
        should_stop=should_stop,
        kept_rows=config.verify.prompts if config.verify.enabled else 0,
        ranks=ranks,
    )
    if trained is None:
        return Outcome(Status.COMPLETE), None  # the first rank has the rest
    scores, answers = trained.scores, {name: np.array(each) for name, each in trained.answers.items()}
    HeldOut(rows.digests[-1], scores.tokens, scores.nll, scores.right, answers).write(folder.held_out)
    facts = {"parameters": str(trained.parameters), "ranks": trained.ranks}
    outcome = Outcome(Status.COMPLETE, trained.metrics, trained.measurements, facts=facts)
    if not config.verify.enabled:
        return outcome, None
    added = added_tokens.examples(pretrained.added_rows(config.model))
    compared = [*trained.held_out[: config.verify.prompts], *added]
    way, known = trained.labelled_logits, trained.logits
    return outcome, Evidence.of(trained.model, compared, trained.dtype, trained.ends, way, known)


def _weights(config: Config, folder: RunFolder) -> Path:
    """Where a run saves what it trained."""
    return folder.model if config.lora.is_full else folder.adapter


def _verified(config: Config, folder: RunFolder, base: Path, outcome: Outcome, evidence: "Evidence") -> Outcome:
    from lowrung.finetune.gate import verify
    from lowrung.finetune.gate.case import Case

    forgotten = _forgotten(config, folder, base)
    tolerances = config.verify.tolerances
    if config.lora.is_full:
        gate = verify.verify_model(
            base=config.model,
            model_folder=folder.model,
            evidence=evidence,
            tolerances=tolerances,
            base_folder=base,
        )
    else:
        case = Case(
            base=config.model,
            adapter_folder=folder.adapter,
            evidence=evidence,
            new_tokens=config.verify.new_tokens,
            merge_dtype=config.verify.merge_dtype,
            tolerances=tolerances,
            scratch=folder.scratch / "merged",
            base_folder=base,
        )
        gate = verify.verify(case, keep=folder.merged if config.verify.keep_merged else None)
    for failure in gate.failures:
        print(f"warning: the merged-vs-adapter gate failed: {failure}", flush=True)
    facts = {
        "gate_failures": list(gate.failures),
        "verified_on": gate.device,
        "verified_in": gate.computed_in,
        "samples": gate.samples[: config.verify.prompts],  # what follows them are rows for added tokens
    }
    return dataclasses.replace(
        outcome,
        metrics={**outcome.metrics, **forgotten, **gate.metrics},
        measurements={**outcome.measurements, **gate.measurements},
        facts={**outcome.facts, **facts},
    )


def _forgotten(config: Config, folder: RunFolder, base: Path) -> dict[str, float]:
    """The loss on general text, by metric; nothing when ``verify.forgetting`` is 0."""
    from lowrung.finetune.gate import forgetting
    from lowrung.finetune.models import pretrained

    if not config.verify.forgetting:
        return {}
    return forgetting.measure(
        base=config.model,
        folder=_weights(config, folder),
        is_adapter=not config.lora.is_full,
        rows=config.verify.forgetting,
        base_folder=base,
        device=pretrained.device(),
    )
