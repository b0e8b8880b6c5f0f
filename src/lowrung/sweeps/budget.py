"""The budget of a study: hours of GPUs or of CPU cores, and what an hour costs."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lowrung.config import signature
from lowrung.config.limits import one_of

UNITS = {"gpu_hours": "GPU hours", "cpu_hours": "CPU hours"}
"""What a budget can be in, each in words. A CPU hour is one thread for an hour."""

PRICE = "cost_per_hour"
"""The key that holds what an hour costs, in any currency."""

_NAME = "hydra.sweeper.budget"
_EXAMPLE = f"Write {_NAME}='{{gpu_hours:8,cost_per_hour:2.5}}', or with cpu_hours; null is no budget."


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a study may use.

    Attributes:
        unit: one of `UNITS`.
        hours: how many.
        price: what one costs; None where nobody said.
    """

    unit: str
    hours: float
    price: float | None

    @classmethod
    def of(cls, written: Mapping[str, float] | None) -> "Budget | None":
        """Reads ``hydra.sweeper.budget``, which `problems` has checked; None where there is none."""
        if written is None:
            return None
        (unit,) = set(written) & set(UNITS)
        return cls(unit, float(written[unit]), float(written[PRICE]) if PRICE in written else None)

    def shown(self, hours: float) -> str:
        """What was spent, in words: ``7.6 of 8 GPU hours``."""
        return f"{amount(hours)} of {amount(self.hours)} {UNITS[self.unit]}"

    def with_cost(self, hours: float) -> str:
        """The same, and what it costs where that is known."""
        cost = "" if self.price is None else f", which cost {hours * self.price:.2f} at {self.price:g} an hour"
        return self.shown(hours) + cost

    def numbers(self, hours: float) -> dict[str, float]:
        """What was spent, by name, for files and the tracker."""
        cost = {} if self.price is None else {"spent/cost": hours * self.price}
        return {f"spent/{self.unit}": hours, **cost}


def amount(hours: float) -> str:
    """Hours with three digits, so that seconds of them are no 0."""
    return f"{hours:.3g}"


def problems(written: Any) -> Iterator[str]:
    """What is wrong with ``hydra.sweeper.budget`` as it was written."""
    if written is None:
        return
    if not isinstance(written, Mapping):
        yield f"{_NAME} must be pairs such as {{gpu_hours:8}}, but is {written!r}. {_EXAMPLE}"
        return
    for name in written:
        yield from one_of(f"A key of {_NAME}", str(name), [*UNITS, PRICE])
    units = [name for name in UNITS if name in written]
    if len(units) != 1 and set(written) <= {*UNITS, PRICE}:
        yield f"{_NAME} must have one of {' and '.join(UNITS)}, but has {' and '.join(units) or 'none'}. {_EXAMPLE}"
    for name in units:
        if not _is_number(written[name]) or not written[name] > 0:
            yield f"{_NAME}.{name} must be a number above 0, but is {written[name]!r}. null is no budget."
    if PRICE in written and not (_is_number(written[PRICE]) and written[PRICE] >= 0):
        yield f"{_NAME}.{PRICE} must be a number of at least 0, but is {written[PRICE]!r}. Leave it out if nobody pays."


def device_problems(written: Any) -> Iterator[str]:
    """What is wrong with it on the device of the runs, which an engine says: a login node may have none like it."""
    if written is None:
        return
    kind = signature.device_kind()
    if "gpu_hours" in written and kind == "cpu":
        yield f"{_NAME}.gpu_hours needs GPUs, but the runs use the CPU. Take cpu_hours: threads times hours."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
