"""A run's plan beside what the run measured: how it is recorded, and what of it can be compared."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lowrung.store import parts
from lowrung.store.outcome import Status

if TYPE_CHECKING:
    from lowrung.costs.prediction import Prediction

TRAINABLE, MEMORY, SECONDS = "plan/params_trainable", "plan/memory_bytes", "plan/seconds"

MEASURED = {TRAINABLE: "params/trainable", MEMORY: "memory/peak_bytes", SECONDS: "time/total_seconds"}
"""What is predicted of a run, by the name of its record, each with the name of what the run measures."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """What was predicted of a run before it began, as its outcome records it.

    Attributes:
        numbers: by MLflow name: ``plan/memory_bytes`` is recorded beside ``memory/peak_bytes``.
        facts: memory and work by part, where the speed is from, and what was guessed.
    """

    numbers: Mapping[str, float]
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, predicted: "Prediction") -> "Planned":
        """A prediction, as it is recorded."""
        own = {name: _tidy(name, value) for name, value in predicted.numbers.items() if name.startswith("plan/")}
        facts = {
            "memory": dataclasses.asdict(predicted.memory),
            "work": dataclasses.asdict(predicted.work),
            "speed": predicted.source,
            "guesses": list(predicted.guesses),
        }
        return cls({TRAINABLE: float(predicted.trainable), **own}, facts)


@dataclasses.dataclass(frozen=True)
class Compared:
    """A quantity of a run, as it was predicted and as it was measured.

    Attributes:
        predicted: before the run.
        measured: by the run; None where it did not come to that.
        is_whole: whether the run did all that was predicted. Else what was measured is that of a part of it.
    """

    predicted: float
    measured: float | None
    is_whole: bool

    @property
    def ratio(self) -> float | None:
        """Measured over predicted; None where they cannot be compared."""
        if self.measured is None or not self.is_whole or self.predicted <= 0:
            return None
        return self.measured / self.predicted


def is_whole(status: Status | None, facts: Mapping[str, Any]) -> bool:
    """Whether a run did, in one go, all that was predicted of it.

    One that was pruned, diverged or failed has ended early. One that was interrupted, and went on from a checkpoint or
    began anew, has done some of it twice.

    Args:
        status: how it ended; None where it has not.
        facts: its outcome's.
    """
    return status is Status.COMPLETE and not facts.get("is_resumed") and not parts.of_facts(facts)


def of(status: Status | None, numbers: Mapping[str, float], facts: Mapping[str, Any]) -> dict[str, Compared]:
    """What of a run's plan stands beside a fact, by the names of `MEASURED`; nothing of a run without a plan.

    Args:
        status: how it ended.
        numbers: its metrics and measurements.
        facts: its outcome's.
    """
    whole = is_whole(status, facts)
    return {
        plan: Compared(numbers[plan], _finite(numbers.get(name)), whole)
        for plan, name in MEASURED.items()
        if _finite(numbers.get(plan)) is not None
    }


def _tidy(name: str, value: float) -> float:
    """Bytes are counted whole."""
    return float(round(value)) if name.endswith("_bytes") else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
