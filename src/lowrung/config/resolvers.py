"""What a config can compute from other settings: OmegaConf's resolvers of lowrung's own.

``${root:${ratio:${train.batch_size},8}}`` is a number that follows another setting, also where that one is swept.
"""

import math
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf


def twice(value: Any) -> Any:
    """``${twice:x}``: 2 x."""
    return 2 * value


def first(*values: Any) -> Any:
    """``${first:a,b,...}``: the first value that is not null, 0, false or empty."""
    return next((value for value in values if value), None)


def product(*factors: Any) -> float:
    """``${product:a,b,...}``."""
    return math.prod(_numbers("product", factors))


def ratio(*parts: Any) -> float:
    """``${ratio:a,b}``: a / b; a whole number where it comes out even, so that it can be a rank."""
    one, other = _numbers("ratio", parts, 2)
    if other == 0:
        raise ValueError(f"ratio must not divide by 0, but is {one} / {other}")
    return _even(one / other, one, other)


def root(*parts: Any) -> float:
    """``${root:x}``: the square root; a whole number where it comes out even."""
    (number,) = _numbers("root", parts, 1)
    if number < 0:
        raise ValueError(f"root must be of 0 or more, but is of {number}")
    return _even(math.sqrt(number), number)


RESOLVERS: dict[str, Callable[..., Any]] = {
    "twice": twice,
    "first": first,
    "product": product,
    "ratio": ratio,
    "root": root,
}

EXAMPLES = {
    "product": "${product:${train.batch_size},2}",
    "ratio": "${ratio:${train.batch_size},8}",
    "root": "${root:${ratio:${train.batch_size},8}}",
}


def register() -> None:
    """Makes them known to OmegaConf. Calling it again does no harm."""
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _numbers(name: str, values: tuple[Any, ...], wanted: int | None = None) -> list[float]:
    """The values, which must be finite numbers, so many where that is given."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            shown = "null" if value is None else f"the text {value}" if isinstance(value, str) else value
            raise ValueError(f"{name} must have numbers, as in {EXAMPLES[name]}, but has {shown}")
    if len(values) != (wanted or len(values)) or not values:
        raise ValueError(f"{name} must have {wanted or 'numbers'}, as in {EXAMPLES[name]}, but has {len(values)}")
    return list(values)


def _even(result: float, *parts: float) -> float:
    """A whole result of whole numbers as a whole number."""
    return int(result) if result.is_integer() and all(isinstance(part, int) for part in parts) else result
