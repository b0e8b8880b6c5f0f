"""The rules that one value can break by itself: a least value, a limit, a choice."""

import math
from collections.abc import Iterator, Sequence

from lowrung.errors import did_you_mean


def at_least(name: str, value: float, least: float, why: str = "") -> Iterator[str]:
    """The problem of a value that is below the least one; ``why`` ends the message."""
    if value < least:
        yield f"{name} must be at least {least}, but is {value}" + (f": {why}." if why else ".")


def above(name: str, value: float, limit: float) -> Iterator[str]:
    """The problem of a value that is not above a limit, or is infinite; NaN is above nothing."""
    if not limit < value < math.inf:
        yield f"{name} must be {'finite' if value == math.inf else f'above {limit}'}, but is {value}."


def one_of(name: str, value: str, choices: Sequence[str]) -> Iterator[str]:
    """The problem of a value that is none of the choices, with the one that was meant."""
    if value not in choices:
        yield f"{name} must be one of {', '.join(choices)}, but is {value!r}.{did_you_mean(value, choices)}"
