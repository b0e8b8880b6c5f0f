"""Checkpoints, each marked as complete when all its files are on the disk; others are not used."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lowrung.finetune.training.ranks import ALONE, Ranks
from lowrung.store import atomic, records
from lowrung.store.layout import CHECKPOINT_MARK

History = list[tuple[int, dict[str, float]]]
"""What was reported: steps and their metrics."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A point from which a run can go on as if it had never stopped.

    Attributes:
        path: its folder.
        step: optimiser steps done.
        history: all that was reported up to it.
        measured: up to it, by MLflow name.
        result: where training had ended with it, the checkpoint whose weights are the run's: itself, or the best one.
    """

    path: Path
    step: int
    history: History
    measured: Mapping[str, float]
    result: Path | None

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Reads a marked checkpoint."""
        mark = records.read(path / CHECKPOINT_MARK)
        result = None if mark["result"] is None else path.with_name(mark["result"])
        history = [(step, metrics) for step, metrics in mark["history"]]
        return cls(path, mark["step"], history, mark["measured"], result)


def latest(folder: Path, ranks: Ranks = ALONE) -> Checkpoint | None:
    """The newest whole checkpoint in a folder, the same in all ranks, or None; torn ones are deleted."""
    step = ranks.told(lambda: _latest_step(folder))
    return None if step < 0 else Checkpoint.read(folder / f"checkpoint-{step}")


def _latest_step(folder: Path) -> int:
    delete_torn(folder)
    whole = _checkpoints(folder)
    return Checkpoint.read(whole[-1]).step if whole else -1


def delete_torn(folder: Path) -> None:
    """Deletes the checkpoints in a folder that were not written to their end, or were written by another run."""
    for path in _checkpoints(folder):
        if not (path / CHECKPOINT_MARK).exists() or records.read(path / CHECKPOINT_MARK).get("run") != _run_of(folder):
            shutil.rmtree(path)


def _run_of(folder: Path) -> str:
    """The name of the run's folder, its signature, that a folder of checkpoints lies in."""
    return folder.resolve().parent.name


def _checkpoints(folder: Path) -> list[Path]:
    """The trainer's checkpoint folders, by step."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))


class Keep(TrainerCallback):
    """Marks each checkpoint once it is on the disk, and then deletes the older ones.

    Args:
        history: what was reported so far; it grows while the run goes on.
        measured: what was measured so far, by MLflow name.
        limit: the number of checkpoints that are kept, besides the best one where the trainer keeps that.
        is_cut_short: whether training is to stop before its end.
        ranks: all that write their part of it.
    """

    def __init__(
        self,
        history: Callable[[], Sequence[tuple[int, Mapping[str, float]]]],
        measured: Callable[[], Mapping[str, float]],
        limit: int,
        is_cut_short: Callable[[], bool],
        ranks: Ranks = ALONE,
    ) -> None:
        self._history = history
        self._measured = measured
        self._limit = limit
        self._is_cut_short = is_cut_short
        self._ranks = ranks

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Marks the checkpoint that the trainer has just written, in all ranks."""
        self._ranks.wait()
        if self._ranks.is_first:
            self._mark(args, state, control)
        self._ranks.wait()  # the best one may be loaded next

    def _mark(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        assert args.output_dir is not None
        folder = Path(args.output_dir)
        path = folder / f"checkpoint-{state.global_step}"
        for file in path.rglob("*"):
            if file.is_file():
                _to_disk(file)
        best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None
        has_ended = control.should_training_stop and not self._is_cut_short()
        result = (best if args.load_best_model_at_end and best else path.name) if has_ended else None
        so_far = {"history": list(self._history()), "measured": dict(self._measured())}
        mark = {"run": _run_of(folder), "step": state.global_step, **so_far, "result": result}
        atomic.write_json(path / CHECKPOINT_MARK, mark)
        older = [other for other in _checkpoints(folder) if other != path and other.name != best]
        for stale in older[: max(0, len(older) - (self._limit - 1))]:
            shutil.rmtree(stale)


def _to_disk(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
