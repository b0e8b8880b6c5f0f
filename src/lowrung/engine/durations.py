"""Lengths of time as people write them: ``90s``, ``30m``, ``1h30m``."""

import math
import re

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(f"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?")


def seconds(value: object) -> float | None:
    """How many seconds a number of seconds or a duration such as ``90s``, ``30m`` or ``1h30m`` is.

    Returns:
        more than 0, and finite; None where ``value`` is no length of time.
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        hours, minutes, rest = (float(number or 0) for number in match.groups())
        value = 3600 * hours + 60 * minutes + rest
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < math.inf else None


def text(seconds: float) -> str:
    """The duration in its largest units: ``1h30m`` for 5400."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{number:g}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if number)
