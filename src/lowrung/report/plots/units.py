"""Metrics in words, with their units."""

import dataclasses
import math
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Unit:
    """How a quantity is written.

    Attributes:
        label: its name and unit.
        factor: that a value is divided by.
    """

    label: str
    factor: float = 1.0


_LOSSES = {"eval/loss": "eval loss", "train/loss": "train loss", "forget/loss_delta": "forgetting"}
_TIMES = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_COUNTS = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))


def of(metric: str, values: Iterable[float] = ()) -> Unit:
    """The unit of a metric; by the size of its values where that is a matter of size.

    Args:
        metric: by its MLflow name.
        values: what will be drawn.
    """
    if metric in _LOSSES:
        return Unit(f"{_LOSSES[metric]} (nats per token)")
    if metric == "params/trainable":
        return counts("trainable parameters", values)
    if metric == "memory/peak_bytes":
        return Unit("peak memory (GB)", 1e9)
    if metric == "time/total_seconds":
        return times("time of a run", values)
    return Unit(metric)


def times(what: str, seconds: Iterable[float]) -> Unit:
    """Seconds, minutes or hours, by the largest."""
    factor, name = _fitting(_TIMES, seconds, at_least=3.0)
    return Unit(f"{what} ({name})", factor)


def counts(what: str, values: Iterable[float]) -> Unit:
    """Ones, thousands, millions or billions, by the largest."""
    factor, name = _fitting((*_COUNTS, (1.0, "")), values, at_least=1.0)
    return Unit(f"{what} ({name})" if name else what, factor)


def _fitting(units: tuple[tuple[float, str], ...], values: Iterable[float], *, at_least: float) -> tuple[float, str]:
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return next((unit for unit in units if largest >= at_least * unit[0]), units[-1])
