"""Constraints: bounds on metrics that the best trial must keep to."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lowrung.costs.prediction import PLANNED
from lowrung.search import objectives


@dataclasses.dataclass(frozen=True)
class Constraint:
    """A bound on a metric.

    Attributes:
        metric: by name.
        is_upper: whether values above the bound break it, or those below.
        bound: itself allowed.
    """

    metric: str
    is_upper: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.is_upper else '>='} {self.bound:g}"

    @property
    def is_of_plan(self) -> bool:
        """Whether it is on what is planned of a run and never measured: what was run has kept to it."""
        return self.metric.startswith("plan/")

    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much a result breaks the bound, for Optuna: above 0 where it does, 1 where the metric is missing."""
        if self.metric not in metrics:
            return 1.0
        excess = metrics[self.metric] - self.bound
        return excess if self.is_upper else -excess


def parse(settings: Mapping[str, str]) -> list[Constraint]:
    """Reads ``{params/trainable: <=1e6}``; `problems` has checked it."""
    return [Constraint(metric, text.startswith("<="), float(text[2:])) for metric, text in settings.items()]


def problems(settings: Any) -> list[str]:
    """What is wrong with constraints as they were written."""
    if not isinstance(settings, Mapping):
        return [f'hydra.sweeper.constraints must be pairs such as {{params/trainable:"<=1e6"}}, but is {settings!r}.']
    found = []
    for metric, text in settings.items():
        if metric not in PLANNED:
            found += objectives.name_problems("hydra.sweeper.constraints", metric, PLANNED)
        if not _is_bound(text):
            found.append(
                f"hydra.sweeper.constraints.{metric} must be <= or >= and a number, but is {text!r}. Write it in"
                f' quotes and without a unit, as in {{{metric}:"<=1e6"}}.'
            )
    return found


def _is_bound(text: Any) -> bool:
    if not isinstance(text, str) or text[:2] not in ("<=", ">="):
        return False
    try:
        return math.isfinite(float(text[2:]))
    except ValueError:
        return False
