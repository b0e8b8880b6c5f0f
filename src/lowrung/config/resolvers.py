"""Arithmetic in interpolations: ``${root:${ratio:${train.batch_size},8}}`` is a number that follows another setting."""

import math
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf


def product(*factors: Any) -> float:
    """``${product:a,b,...}``. Whole numbers give a whole number."""
    return math.prod(_numbers("product", factors, "${product:${train.batch_size},2}"))


def ratio(*parts: Any) -> float:
    """``${ratio:a,b}``: a / b."""
    numbers = _numbers("ratio", parts, "${ratio:${train.batch_size},8}")
    if len(numbers) != 2:
        raise ValueError(f"ratio must have two numbers, as in ${{ratio:${{train.batch_size}},8}}, but has {len(numbers)}")
    if numbers[1] == 0:
        raise ValueError(f"ratio must not divide by 0, but is {_shown(numbers[0])} / {_shown(numbers[1])}")
    return numbers[0] / numbers[1]


def root(*parts: Any) -> float:
    """``${root:x}``: the square root."""
    numbers = _numbers("root", parts, "${root:${ratio:${train.batch_size},8}}")
    if len(numbers) != 1:
        raise ValueError(f"root must have one number, as in ${{root:${{lora.r}}}}, but has {len(numbers)}")
    if numbers[0] < 0:
        raise ValueError(f"root must be of a number that is not negative, but is of {_shown(numbers[0])}")
    return math.sqrt(numbers[0])


RESOLVERS: dict[str, Callable[..., Any]] = {"product": product, "ratio": ratio, "root": root}

NAMES = ("first", "twice", *RESOLVERS)
"""All of lowrung's, beside OmegaConf's own ``oc.*``."""


def register() -> None:
    """Makes them known to OmegaConf; calling it again does no harm."""
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _numbers(name: str, values: tuple[Any, ...], example: str) -> list[float]:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} must have numbers, as in {example}, but has {_shown(value)}")
    if not values:
        raise ValueError(f"{name} must have numbers, as in {example}, but has none")
    return list(values)


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value!r}"
