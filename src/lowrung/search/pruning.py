"""The pruners: when a bad trial is ended early. A pruner is made for every report, and keeps no state of its own.

Trials are compared at equal numbers of tokens, since a step of 16 examples trains on more than a step of 4. Optuna
compares values at equal whole numbers, its steps. So tokens are counted in `units`: a unit is the number of tokens at
the study's first report. Where all trials evaluate equally often, a unit is an evaluation.
"""

import dataclasses
import importlib.util
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
    WilcoxonPruner,
)

from lowrung.errors import install

DEFAULT: Mapping[str, Any] = {"name": "none"}

NAMES = ("none", "asha", "hyperband", "median", "percentile", "wilcoxon")

REPORTED = ("eval/loss", "eval/perplexity", "eval/token_accuracy")
"""The metrics that a run measures while it trains; all others are known at its end."""

OPTUNAS = {"n_warmup": "n_warmup_steps", "n_startup_seeds": "n_startup_steps"}
"""Optuna's name of a setting where it differs: its steps are not optimiser steps."""

SLACK = 0.1
"""How much of a unit may be missing: equal numbers of examples do not have quite equal numbers of tokens."""

RANGES = {
    "min_resource": (1, math.inf),
    "reduction_factor": (2, math.inf),
    "n_startup_trials": (0, math.inf),
    "n_warmup": (0, math.inf),
    "percentile": (0, 100),
    "n_startup_seeds": (0, math.inf),
    "p_threshold": (0, 1),
}
"""The smallest and the largest value of each setting."""


def units(tokens: int, unit: int) -> int:
    """The whole units that a run has trained on: the step of a report, on the scale that all trials share.

    A report counts for that step alone. A run of large batches skips steps between two evaluations. Counting its next
    evaluation for them would be unfair: the value comes from more training, and would prune trials that are no worse.
    No pruner needs every step: median and percentile compare at the steps that trials share, and the halving pruners
    judge at the first report at or past a rung.

    Args:
        tokens: trained on so far.
        unit: tokens of the study's first report.
    """
    return math.floor(tokens / unit + SLACK)


def make(settings: Mapping[str, Any], *, max_resource: int | None) -> BasePruner:
    """A pruner; resources are `units`, the first evaluation is at 1.

    Args:
        settings: ``name`` and all of the pruner's own settings, as below ``hydra.sweeper.pruner``.
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
        case "wilcoxon":
            return WilcoxonPruner(**own)
        case _:
            return NopPruner()


def is_by_seed(settings: Mapping[str, Any]) -> bool:
    """Whether a pruner compares the results of a trial's seeds, and not the evaluations of a run that trains."""
    return bool(settings["name"] == "wilcoxon")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a run is evaluated.

    Attributes:
        eval_steps: steps between evaluations.
        steps: in total; `sys.maxsize` where the number depends on the data.
        examples: in a step.
    """

    eval_steps: int
    steps: int
    examples: int = 1


def is_by_evaluations(settings: Mapping[str, Any]) -> bool:
    """Whether a pruner stops runs that train."""
    return settings["name"] != "none" and not is_by_seed(settings)


def problems(
    settings: Mapping[str, Any], objectives: Mapping[str, str], schedules: Sequence[Schedule], *, seeds: int = 1
) -> list[str]:
    """What is wrong with a pruner, or with having it for these objectives and runs.

    Args:
        settings: as `make` takes them.
        objectives: metrics with ``minimize`` or ``maximize``.
        schedules: of each point of the grid.
        seeds: how many each trial is trained with.
    """
    name = settings["name"]
    if name not in NAMES:
        return [f"hydra/sweeper/pruner must be one of {', '.join(NAMES)}, but its name is {name!r}."]
    if name == "none":
        return []
    found = [*_range_problems(settings), *_objective_problems(settings, list(objectives))]
    if is_by_seed(settings):
        return found + _seed_problems(settings, seeds)
    return found + _schedule_problems(settings, schedules)


def _range_problems(settings: Mapping[str, Any]) -> list[str]:
    found = []
    for key, (least, most) in RANGES.items():
        value = settings.get(key, least)
        if not least <= value <= most:
            wanted = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            found.append(f"hydra.sweeper.pruner.{key} must be {wanted}, but is {value}.")
    return found


def _objective_problems(settings: Mapping[str, Any], objectives: Sequence[str]) -> list[str]:
    name = settings["name"]
    if len(objectives) > 1:
        return [
            f"hydra/sweeper/pruner={name} must have one objective to prune by, but got {len(objectives)}:"
            f" {', '.join(objectives)}. Name one in hydra.sweeper.objectives, or leave the pruner out."
        ]
    return [
        f"hydra/sweeper/pruner={name} must have an objective that is measured while a run trains"
        f" ({', '.join(REPORTED)}), but {objective} is known at its end. Optimise another, or leave the pruner out."
        for objective in objectives
        if objective not in REPORTED and not is_by_seed(settings)
    ]


def _seed_problems(settings: Mapping[str, Any], seeds: int) -> list[str]:
    """What the test cannot do with so few seeds: n of them, all worse, happen by chance with probability 1/2^n."""
    found = []
    if importlib.util.find_spec("scipy") is None:
        found.append(f"hydra/sweeper/pruner=wilcoxon needs scipy, which is not installed. {install('samplers')}")
    threshold = settings.get("p_threshold", 0.1)
    needed = math.floor(-math.log2(threshold)) + 1 if 0 < threshold < 1 else 1
    if seeds <= needed:
        found.append(
            f"hydra/sweeper/pruner=wilcoxon must have at least {needed + 1} seeds, but has {seeds}. With"
            f" p_threshold={threshold:g}, {needed} seeds can show that a trial is worse, and the seeds after them need"
            f" not be trained. List them, as in seed={','.join(map(str, range(needed + 1)))}, or leave the pruner out."
        )
    return found


def _schedule_problems(settings: Mapping[str, Any], schedules: Sequence[Schedule]) -> list[str]:
    if not schedules:
        return []
    if all(schedule.eval_steps >= schedule.steps for schedule in schedules):
        eval_steps, steps = schedules[0].eval_steps, schedules[0].steps
        return [
            f"hydra/sweeper/pruner={settings['name']} must have an evaluation before the end of a run, but"
            f" train.eval_steps is {eval_steps} and a run has {steps} steps. Lower train.eval_steps."
        ]
    unit = min(schedule.eval_steps * schedule.examples for schedule in schedules)
    most = max(schedule.steps * schedule.examples for schedule in schedules) / unit
    return [
        f"hydra.sweeper.pruner.{key} must be below {most:.3g}, the length of a run in units of its first evaluation,"
        f" but is {settings[key]}: no trial would be pruned. Lower it, or lower train.eval_steps."
        for key in ("min_resource", "n_warmup")
        if settings.get(key, 0) >= most
    ]
