"""Bytes and seconds as people write and read them."""

import math
import re

BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
"""Of a unit. A GB is 10^9 bytes and a GiB 2^30, which is 7% more."""

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")
_BY_LETTERS = {unit.lower(): count for unit, count in BYTES.items()}


def amount(value: object) -> float | None:
    """How many bytes a number of them or a text such as ``80GB`` or ``80GiB`` is.

    Returns:
        more than 0, and finite; None where ``value`` is no amount of memory.
    """
    if isinstance(value, str) and (match := _AMOUNT.fullmatch(value.strip())):
        value = float(match[1]) * _BY_LETTERS.get(match[2].lower(), math.nan)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < math.inf else None


def size(count: float) -> str:
    """Bytes in three digits: ``2.31 GB``, which is 2,310,000,000."""
    for unit in ("TB", "GB", "MB", "kB"):
        if count >= 0.9995 * BYTES[unit]:
            return f"{_three(count / BYTES[unit])} {unit}"
    return f"{count:.0f} B"


def _three(value: float) -> str:
    digits = next((digits for digits, below in ((2, 9.995), (1, 99.95)) if value < below), 0)
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds for people: ``40 s``, ``25 min``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        hours, minutes = divmod(minutes, 60)
        return _together((hours, "h"), (minutes, "min"))
    days, hours = divmod(round(seconds / 3600), 24)
    return _together((days, "d"), (hours, "h"))


def measured(seconds: float) -> str:
    """Seconds that were measured, to the second or finer: ``12.3 s``, ``4 min 10 s``, ``3 h 20 min``."""
    if seconds < 59.95:
        return f"{max(0.0, seconds):.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return _together((whole // 60, "min"), (whole % 60, "s"))
    return duration(seconds)


def _together(*parts: tuple[int, str]) -> str:
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
