"""Every key of ``hydra.sweeper``, its type, unit and the reason for its default. No result depends on them."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class SweeperConf:
    """The settings of a sweep.

    Attributes:
        n_trials: trials in total. It is needed if there is an interval. If there is none, every point of the grid is
            run once, and a smaller number ends the sweep earlier. Stages have their own.
        timeout: no trial starts after this time: seconds, or a duration such as ``90s``, ``30m`` or ``1h30m``. Runs
            that have started run to their ends. The same command goes on, with as much time again. null is no limit.
        budget: hours that the study may use in all, as in ``{gpu_hours:8,cost_per_hour:2.5}``; ``cpu_hours`` are hours
            times threads. No run starts that would pass it by the plan, and one that has started runs to its end.
            Failed, pruned and lost jobs count too; results from the store cost nothing. The same command with a larger
            budget goes on. null is no budget.
        objectives: metrics that are optimised, each with ``minimize`` or ``maximize``; null is ``eval/loss`` minimised.
            (A dict as the default could be added to on the command line, but not be replaced.)
        constraints: metrics with limits that the best trial must keep to, such as ``{params/trainable:"<=1e6"}``. The
            samplers tpe, nsga2 and gp learn which settings break them. null is none.
            What is planned can be limited too (``plan/memory_bytes``, ``plan/seconds``, ``plan/disk_bytes``, and
            ``params/trainable``): a trial that breaks such a limit by the plan is not run.
        over_seeds: what a trial's value is over its seeds, for objectives and constraints: ``mean``, ``median``, or
            ``worst`` (the largest loss, the smallest accuracy). The mean uses all seeds best. The median forgives one
            bad seed in three; the worst is for a recipe that must never fail. Other metrics are means.
        prefer: metrics or measurements that decide between trials that tie with the best: the smallest value wins, and
            the next one decides between equals. null is ``[params/trainable]``: of models that cannot be told apart the
            smallest is the cheapest to keep and to serve. ``[time/total_seconds]`` is the fastest to train.
        difference: the smallest difference of the first objective that matters to you. Where an interval is wider, a
            warning says how many held-out examples or seeds would do. null does not ask.
        params: the search space of a preset: overrides by key. Overrides on the command line take precedence.
        spaces: a union of spaces: a list of dicts like ``params``, each joined with ``params``. What is searched is all
            of their points, so a setting can have values of its own beside each value of another. null is one space.
        stages: searches that start from what an earlier one found: a list of dicts. ``name`` names the stage;
            ``params``, ``spaces`` and ``n_trials`` are its own; ``of`` names the stage that it starts from (the one
            before), and ``start`` what of it: ``best``, a number of the best trials, or ``ties``, the best and all that
            the held-out examples cannot tell from it. ``prune: false`` has all its trials trained to their ends, where
            a pruner ends those of the others early. null is one search.
        first: points that are tried first, as a list of dicts: ``[{train.learning_rate:3e-4,lora.r:8},{lora.r:16}]``.
            For what is known to be good. What a point leaves out is drawn, or taken from the grid in turn. Each is one
            of the ``n_trials``; if there is no interval, they only change the order. null is none.
        warm_start: the name of an earlier study of the same space, objectives and constraints. Its complete trials
            teach the sampler (tpe or gp), and are no trials of this study: the search begins where that one ended. It
            is looked for where this study is kept: in ``storage``, or in a folder beside this one's. null is none.
        sampler: draws values from the intervals: ``hydra/sweeper/sampler=NAME``. It learns from all points of the grid
            together.
        pruner: ends bad trials early: ``hydra/sweeper/pruner=NAME``.
        storage: address of the database that Optuna keeps the study in: ``postgresql://...`` or ``mysql://...`` for a
            database that others can read. The address must hold no password. null is a SQLite file in the study's
            folder.
        fresh: starts the study over. Results stay in the store, and a run that has one there is not trained again.
        retries: how often a run whose process was lost (a crash, a kill) is started again, from its last checkpoint.
            Any other failure would occur again, so such a run is not tried again; see ``on_oom``.
        on_oom: what becomes of a run that does not fit into memory, by the plan before it starts and in fact after.
            ``halve`` starts it with half the batch and twice the accumulation, as often as the plan asks for, and tries
            a run that is out of memory once more with half of that. ``skip`` leaves it out. ``fail`` starts nothing
            where a run does not fit by the plan, and lets one fail that is out of memory. The plan leaves a run out
            where 0.7 of its predicted memory is more than there is, since predictions may be 15% off, or more.
        max_failures: this many failed trials, one after the other, end the sweep: the next ones would most likely fail
            too.
        dry_run: checks everything, prints what would be run and what that would take, and runs nothing.
        plan_for: the machine that a dry run is for: ``{gpus:8,memory:80GB,tflops:400}``. ``memory`` is that of each
            GPU, or main memory with ``gpus:0``; ``tflops`` is the speed of products of matrices there, in 10^12
            operations a second, and without it no time is given. null is this machine.
    """

    n_trials: int | None = None
    timeout: Any = None
    budget: Any = None
    objectives: Any = None
    constraints: Any = None
    over_seeds: str = "mean"
    prefer: Any = None
    difference: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    spaces: Any = None
    stages: Any = None
    first: Any = None
    warm_start: str | None = None
    sampler: Any = MISSING
    pruner: Any = MISSING
    storage: str | None = None
    fresh: bool = False
    retries: int = 1
    on_oom: str = "halve"
    max_failures: int = 5
    dry_run: bool = False
    plan_for: Any = None
