"""What all ways are given alike: the model, the rows and their order, and how to train."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SOURCE, HELD_OUT, ORDERED = "source.jsonl", "held_out.jsonl", "ordered"
"""What lowrung reads: rows to train on and held-out rows; and a folder of the former in the order that it draws."""


@dataclasses.dataclass(frozen=True)
class Task:
    """The work of every way.

    Attributes:
        model: an embedded model's name.
        data: where the rows come from; a name of ``data``.
        train_rows: rows to train on.
        held_out_rows: rows that lowrung evaluates on; no other way evaluates.
        max_length: tokens of a row.
        learning_rates: of each trial.
        steps: optimiser steps of a trial.
        batch_size: rows of a step.
        rank: of LoRA.
        alpha: of LoRA.
        target_modules: of LoRA.
        warmup: the share of the steps in which the rate rises; it falls linearly after that.
        seed: of the adapter's start and the order of the rows.
        dtype: of the weights and of all products.
    """

    model: str = "smollm2_135m"
    data: str = "docstrings"
    train_rows: int = 512
    held_out_rows: int = 32
    max_length: int = 256
    learning_rates: tuple[float, ...] = (3e-4,)
    steps: int = 16
    batch_size: int = 8
    rank: int = 8
    alpha: int = 32
    target_modules: str = "all-linear"
    warmup: float = 0.1
    seed: int = 0
    dtype: str = "float32"

    def write(self, path: Path) -> None:
        """Writes it down as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Task":
        """What `write` left."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "learning_rates": tuple(fields["learning_rates"])})


TINY = Task("tiny", "number_words", train_rows=64, held_out_rows=8, steps=3, batch_size=4)
"""A pass of the benchmark itself: a minute, and nothing that it measures says anything about real training."""


def spread(trials: int) -> tuple[float, ...]:
    """Learning rates of this many trials, log-spaced from 1e-4 to 1e-3; of one, the rate in their middle."""
    if trials == 1:
        return (3e-4,)
    return tuple(float(f"{1e-4 * 10 ** (number / (trials - 1)):.3g}") for number in range(trials))


def turned(names: Sequence[str], turn: int) -> list[str]:
    """The names in the order of a turn: each of them is first once in as many turns as there are names."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


@dataclasses.dataclass(frozen=True)
class Files:
    """The task's files in the benchmark's folder, and what was found when they were written.

    Attributes:
        folder: where they are.
        model: the folder of the model.
        tokenising_seconds: CPU seconds in which lowrung read the rows and turned them into tokens.
    """

    folder: Path
    model: str
    tokenising_seconds: float

    @classmethod
    def read(cls, folder: Path) -> "Files":
        """Reads what `benchmarks.peers.rows` has written."""
        facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        return cls(folder, **facts)

    @property
    def source(self) -> Path:
        """The rows that lowrung trains on, before it draws their order."""
        return self.folder / SOURCE

    @property
    def held_out(self) -> Path:
        """The rows that lowrung evaluates on."""
        return self.folder / HELD_OUT

    @property
    def ordered(self) -> Path:
        """A folder with the training rows in lowrung's order, for those that train on rows as they come."""
        return self.folder / ORDERED
