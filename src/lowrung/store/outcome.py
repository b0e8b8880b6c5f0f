"""How a run ended: the record that a run leaves, and that the coordinator and all commands trust."""

import dataclasses
import enum
import functools
import math
import statistics
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lowrung.store import atomic, records


class Status(enum.StrEnum):
    """How a run ended. A closed set: every run ends in exactly one of these.

    A trial that was left out by the plan is skipped; no run is.
    """

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OOM = "oom"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def is_kept(self) -> bool:
        """Whether a rerun of the same study keeps the result rather than running it again."""
        return self in (Status.COMPLETE, Status.PRUNED, Status.DIVERGED, Status.SKIPPED)


class Numbers(Mapping[str, float]):
    """Numbers by name, in a quarter of a dict's memory: a sweep holds those of all its runs.

    Args:
        numbers: any; runs that measured the same share their names.
    """

    __slots__ = ("_names", "_values")

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self._names = _shared(tuple(numbers))
        self._values = array("d", numbers.values())

    def __getitem__(self, name: str) -> float:
        """The number of this name."""
        try:
            return self._values[self._names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        """The names, in the order in which they were given."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many they are."""
        return len(self._names)

    def __repr__(self) -> str:
        """As a dict's."""
        return repr(dict(self))


@functools.cache
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """The first of all equal tuples."""
    return names


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a run after its end.

    Attributes:
        status: how it ended.
        metrics: exact results, equal on every repeat (losses, counts, the gate), by MLflow name.
        measurements: what varies with the machine (seconds, bytes, tokens per second), by MLflow name.
        cause: for anything but ``complete``, one line that says why.
        facts: what else describes the result and is not a number (warnings, the ranks as trained).
        signature: of the run; see `lowrung.store.results.save`.
        files: the SHA-256 of each file that the run trained, by its path in the run's folder.
    """

    status: Status
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measurements: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cause: str | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    signature: str | None = None
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """Metrics and measurements together, as they are tracked."""
        return {**self.metrics, **self.measurements}

    @property
    def passed_gate(self) -> bool | None:
        """Whether the gate found nothing wrong; see `passed_gate`."""
        return passed_gate(self.metrics)

    @property
    def gate_failures(self) -> Sequence[str]:
        """The rules of the gate that were broken, in words."""
        failures: Sequence[str] = self.facts.get("gate_failures", ())
        return failures

    def write(self, path: Path) -> None:
        """Writes the record whole or not at all. Numbers that are not finite are left out, since JSON has none."""
        record = dataclasses.asdict(self)
        for kind in ("metrics", "measurements"):
            record[kind] = {name: value for name, value in record[kind].items() if math.isfinite(value)}
        atomic.write_json(path, record)

    @classmethod
    def read(cls, path: Path) -> "Outcome | None":
        """Reads the record, or None where no run has ended.

        Raises:
            StoreError: when the file is there and is not such a record.
        """
        if not path.exists():
            return None
        record = records.read(path)
        try:
            numbers = {kind: Numbers(record[kind]) for kind in ("metrics", "measurements") if kind in record}
            record.update(numbers, status=Status(record["status"]))
        except (AttributeError, TypeError, ValueError) as error:
            raise records.unreadable(path, f"must hold the outcome of a run, but does not ({error})") from error
        return record.into(cls)


def passed_gate(metrics: Mapping[str, float]) -> bool | None:
    """Whether the gate found nothing wrong, or None where it did not run.

    Args:
        metrics: a run's, or the means over a trial's runs: a trial has passed when all its runs have.
    """
    passed = metrics.get("merge/passed")
    return None if passed is None else passed == 1


OVER_SEEDS = ("mean", "median", "worst")
"""What a trial's value can be over its runs."""


def over_seeds(
    outcomes: Mapping[int, Outcome], how: str = "mean", directions: Mapping[str, str] = MappingProxyType({})
) -> Outcome:
    """A trial's outcome from those of its runs: the means of what was measured in all, if all are complete.

    Args:
        outcomes: by seed; one alone is the trial's.
        how: one of `OVER_SEEDS`, for the metrics that trials are judged by; any other metric has its mean.
        directions: those metrics, each with ``minimize`` or ``maximize``. The worst value of one that is minimised is
            the largest.

    Returns:
        complete with these values; or else the status and the cause of the first run that is not complete, with the
        values of those that are.
    """
    if len(outcomes) == 1:
        return next(iter(outcomes.values()))
    complete = [outcome for outcome in outcomes.values() if outcome.status is Status.COMPLETE]
    bad = next(((seed, outcome) for seed, outcome in outcomes.items() if outcome.status is not Status.COMPLETE), None)
    return Outcome(
        Status.COMPLETE if bad is None else bad[1].status,
        _values([outcome.metrics for outcome in complete], how, directions),
        _values([outcome.measurements for outcome in complete]),
        cause=None if bad is None else f"seed {bad[0]}: {bad[1].cause}",
        facts={
            "gate_failures": [
                f"seed {seed}: {failure}" for seed, outcome in outcomes.items() for failure in outcome.gate_failures
            ]
        },
    )


def _values(
    numbers: Sequence[Mapping[str, float]], how: str = "mean", directions: Mapping[str, str] = MappingProxyType({})
) -> dict[str, float]:
    names = [name for name in numbers[0] if all(name in others for others in numbers)] if numbers else []
    return {name: _value([values[name] for values in numbers], how, directions.get(name)) for name in names}


def _value(values: Sequence[float], how: str, direction: str | None) -> float:
    match how if direction else "mean":
        case "median":
            return statistics.median(values)
        case "worst":
            return max(values) if direction == "minimize" else min(values)
        case _:
            return statistics.fmean(values)
