"""A single run: `python src/train.py` without ``-m``."""

import contextlib
import dataclasses
import gc
import shlex
from collections.abc import Iterator
from pathlib import Path

from lowrung.config import rank_rules, rules
from lowrung.config.schema import Config
from lowrung.costs.facts import Planned
from lowrung.engine import gpus
from lowrung.engine.cores import usable_cores
from lowrung.engine.interrupt import StopSignals
from lowrung.errors import RunFailed, UsageError
from lowrung.finetune.found import Preflight
from lowrung.report.progress import Progress
from lowrung.report.tables import number
from lowrung.report.warned import Warnings
from lowrung.runs import execution, inputs, planned
from lowrung.runs.computation import Computation
from lowrung.runs.folder import kept_outcome, notes, prepare_folder
from lowrung.store import atomic, layout
from lowrung.store.layout import JobFolder, RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.store.parts import last_checkpoint
from lowrung.track import recording
from lowrung.track.base import Point, chosen_experiment
from lowrung.track.owed import Owed, RunRecord
from lowrung.track.sender import Sender


@dataclasses.dataclass(frozen=True)
class SingleRun:
    """A single run that has ended.

    Attributes:
        outcome: how it ended.
        folder: its folder in the store.
        is_reused: whether its result was there before.
    """

    outcome: Outcome
    folder: RunFolder
    is_reused: bool


def run(config: Config, job: JobFolder) -> SingleRun:
    """Trains a single run, unless the store has its result, and prints what it measured.

    Args:
        config: the run's.
        job: Hydra's output folder of this command.

    Raises:
        UsageError: when the config cannot be run; nothing has been trained then.
        RunFailed: when the run did not complete.
        Interrupted: when Ctrl-C or SIGTERM stopped it, after its checkpoint.
    """
    with Warnings(print).of_this_process():
        return _run(config, job)


def _run(config: Config, job: JobFolder) -> SingleRun:
    problems = [*rules.problems(config), *recording.tracking_problems(config), *gpus.problems()]
    if problems := problems or list(rank_rules.gpu_problems(config, len(gpus.visible()), "CUDA_VISIBLE_DEVICES=0,1")):
        raise UsageError(problems)
    threads = usable_cores()
    config = inputs.with_ranks(config, len(gpus.visible()))
    see_its_gpus(config)
    preflight = inputs.preflight(config)
    if preflight.problems:
        raise UsageError(preflight.problems)
    config = inputs.pinned(config, preflight)
    folder = layout.run_folder(Path(config.store).absolute(), inputs.run_signature(config, preflight, threads))
    layout.point_to(job.run, folder.path)
    outcome = kept_outcome(folder)
    is_reused = outcome is not None
    if outcome is not None:
        print(f"reused: these settings were run before, and the result is in {folder.path}")
    else:
        with StopSignals() as signals:
            outcome = train(config, folder, preflight, threads, signals)
        if outcome.status is Status.CANCELLED:
            print("interrupted; the same command goes on from here")
            raise signals.interruption
    print(_summary(outcome, folder, job))
    single = SingleRun(outcome, folder, is_reused)
    if outcome.status is not Status.COMPLETE:
        raise RunFailed(f"The run ended as {outcome.status}: {outcome.cause}", single)
    return single


def see_its_gpus(config: Config) -> None:
    """Leaves a run one GPU that it sees, unless it has a use for more."""
    if config.model.device_map is None and config.train.parallel == "none":
        gpus.see_one()  # SFTTrainer would take several for DataParallel, and refuses


def train(config: Config, folder: RunFolder, preflight: Preflight, threads: int, signals: StopSignals) -> Outcome:
    """Trains a run in this process, with its progress on the screen, and tracks it.

    Args:
        config: the run's, which has been checked and pinned; see `lowrung.runs.inputs.pinned`.
        folder: the run's in the store.
        preflight: what was found of its model and data.
        threads: CPU threads.
        signals: on which the run ends after its step, with a checkpoint.
    """
    for note in notes(config, [preflight]):
        print(f"note: {note}")
    if config.train.rank_count > 1:
        print(f"{config.train.rank_count} ranks train it, and print to {folder.log}")
    claim = prepare_folder(folder, config, preflight, threads)
    is_tracking = recording.tracking_uri(config) is not None and config.train.rank_count == 1
    predicted = planned.predict(config, preflight, threads, is_tracking=is_tracking)
    if predicted and (problem := planned.too_large(config, predicted)):
        print(f"warning: {problem}")
    opening = recording.single_opening(config, folder)
    sender = recording.sender(config)
    recording.first_answer(sender, config, sender.send(opening.open, opening.name))
    history = recording.History(sender, opening)
    with atomic.lock(folder.lock), _frozen(), Progress() as progress, recording.measuring(config, folder, history):
        sender.say = progress.say
        planned_seconds = predicted.seconds if predicted and not last_checkpoint(folder) else None
        progress.start("run", "training", inputs.steps(config, preflight), planned=planned_seconds)

        def on_point(point: Point) -> None:
            history.add(point)
            progress.update("run", point.step, point.metrics)

        def stop_reason() -> str | None:
            return str(Status.CANCELLED) if signals.is_to_stop else None

        base = inputs.base_folder(config, preflight, threads)
        outcome = execution.execute(
            Computation(config, folder, preflight.data_folder, base, threads),
            claim=claim,
            planned=Planned.of(predicted) if predicted else None,
            on_point=on_point,
            stop_reason=stop_reason,
        )
        planned.note(config, preflight, threads, outcome)
        progress.end("run", "training", str(outcome.status))
    _send(sender, config, folder, RunRecord(opening, str(folder.path), outcome.status, outcome.cause, preflight.splits))
    return outcome


def _send(sender: Sender, config: Config, folder: RunFolder, record: RunRecord) -> None:
    """Records a run's end, and leaves what the tracker did not take beside the results, for `lowrung sync`."""
    name = record.opening.name
    sent = sender.send(record.send, name)
    is_tracked = sender.drain(recording.END_SECONDS) and sent.exception() is None
    sender.close()
    if (uri := recording.tracking_uri(config)) is not None:
        owed = Owed(uri, chosen_experiment(config.track.experiment), None, [] if is_tracked else [record])
        owed.write(folder.untracked)
        if not is_tracked:
            print(f"warning: not tracked: {name}. lowrung sync {shlex.quote(str(folder.path))} sends it.")


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Keeps garbage collection off what is in memory by now: a walk over it takes 0.4 s, and a run asks for five.

    A sweep's runs do the same; see `lowrung.engine.worker`.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _summary(outcome: Outcome, folder: RunFolder, job: JobFolder) -> str:
    numbers = {name: number(value) for name, value in sorted(outcome.numbers.items()) if name.count("/") == 1}
    width = max(map(len, numbers), default=0)
    lines = [f"{name:<{width}}  {value}" for name, value in numbers.items()]
    warnings = [f"warning: {text}" for text in outcome.gate_failures]
    return "\n".join([*lines, *warnings, f"results: {folder.path}", f"config:  {job.path / '.hydra'}"])
