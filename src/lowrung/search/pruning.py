"""The pruners: when a trial that does badly is ended. One is made for every report, and none remembers anything.

Trials are compared by what they have seen: tokens, since a step of 16 examples is not a step of 4. Optuna compares
values at equal whole numbers, so tokens are counted in `units` of those that the study's first trial to report had seen
at its first evaluation. Where all trials evaluate alike, a unit is an evaluation.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)

DEFAULT: Mapping[str, Any] = {"name": "none"}

NAMES = ("none", "asha", "hyperband", "median", "percentile")

REPORTED = ("eval/loss", "eval/perplexity", "eval/token_accuracy")
"""The metrics that a run measures while it trains; all others are known at its end."""

OPTUNAS = {"n_warmup": "n_warmup_steps"}
"""Optuna's word where it is another: its steps are not a run's."""

SLACK = 0.1
"""How much of a unit may be missing: equal numbers of examples do not have quite equal numbers of tokens."""

RANGES = {
    "min_resource": (1, math.inf),
    "reduction_factor": (2, math.inf),
    "n_startup_trials": (0, math.inf),
    "n_warmup": (0, math.inf),
    "percentile": (0, 100),
}
"""The smallest and the largest value of each setting."""


def units(tokens: int, unit: int) -> int:
    """How many whole units a run has seen: the place of a report on the scale that all trials share.

    A report counts for that place alone. A run of large batches passes places without an evaluation; were its next one
    counted for them, a value would stand there that is the better for more training, and would prune trials that are no
    worse. Median and percentile compare at the places that trials share, and the halving pruners judge at the first
    report at or past a rung, so that neither needs every place.

    Args:
        tokens: trained on so far.
        unit: tokens of the study's first report.
    """
    return math.floor(tokens / unit + SLACK)


def make(settings: Mapping[str, Any], *, max_resource: int | None) -> BasePruner:
    """A pruner; resources are `units`, the first evaluation is at 1.

    Args:
        settings: ``name`` and all of the pruner's own, as below ``hydra.sweeper.pruner``.
        max_resource: units of a whole run, for Hyperband; None while no run has ended, when it prunes nothing.
    """
    own = {OPTUNAS.get(key, key): value for key, value in settings.items() if key != "name"}
    match settings["name"]:
        case "asha":
            return SuccessiveHalvingPruner(**own)
        case "hyperband":
            return HyperbandPruner(max_resource="auto" if max_resource is None else max_resource, **own)
        case "median":
            return MedianPruner(**own)
        case "percentile":
            return PercentilePruner(**own)
        case _:
            return NopPruner()


def problems(
    settings: Mapping[str, Any], objectives: Mapping[str, str], schedules: Sequence[tuple[int, int]]
) -> list[str]:
    """What is wrong with a pruner, or with having it for these objectives and runs.

    Args:
        settings: as `make` takes them.
        objectives: metrics with ``minimize`` or ``maximize``.
        schedules: steps between evaluations and steps in total, of each point of the grid.
    """
    name = settings["name"]
    if name not in NAMES:
        return [f"hydra/sweeper/pruner must be one of {', '.join(NAMES)}, but its name is {name!r}."]
    if name == "none":
        return []
    return [
        *_range_problems(settings),
        *_objective_problems(name, list(objectives)),
        *_schedule_problems(name, schedules),
    ]


def _range_problems(settings: Mapping[str, Any]) -> list[str]:
    found = []
    for key, (least, most) in RANGES.items():
        value = settings.get(key, least)
        if not least <= value <= most:
            wanted = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            found.append(f"hydra.sweeper.pruner.{key} must be {wanted}, but is {value}.")
    return found


def _objective_problems(name: str, objectives: Sequence[str]) -> list[str]:
    if len(objectives) > 1:
        return [
            f"hydra/sweeper/pruner={name} must have one objective to prune by, but got {len(objectives)}:"
            f" {', '.join(objectives)}. Name one in hydra.sweeper.objectives, or leave the pruner out."
        ]
    return [
        f"hydra/sweeper/pruner={name} must have an objective that is measured while a run trains"
        f" ({', '.join(REPORTED)}), but {objective} is known at its end. Optimise another, or leave the pruner out."
        for objective in objectives
        if objective not in REPORTED
    ]


def _schedule_problems(name: str, schedules: Sequence[tuple[int, int]]) -> list[str]:
    if not schedules or any(eval_steps < total for eval_steps, total in schedules):
        return []
    eval_steps, total = schedules[0]
    return [
        f"hydra/sweeper/pruner={name} must have an evaluation before a run's end to prune at, but train.eval_steps is"
        f" {eval_steps} and a run has {total} steps. Lower train.eval_steps."
    ]
