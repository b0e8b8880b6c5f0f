"""How many runs there are at a time, where the plan says it: ``hydra.launcher.workers`` and ``workers_per_gpu``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lowrung.config import signature
from lowrung.costs import units
from lowrung.engine import cores, gpus, memory
from lowrung.engine.base import Engine
from lowrung.engine.local import LocalEngine
from lowrung.report.tables import counted
from lowrung.sweeps.plan import Plan

if TYPE_CHECKING:
    from lowrung.search.study import Study

AUTO = "auto"

MARGIN = 0.7
"""The part of the memory that runs are planned to take together: half of all predictions are within 15%, and several
runs that are larger at once leave no room for each other. The rest of the machine needs some too."""

SLOTS = "slots"
"""The study's fact that holds how many runs there were at a time at its first start, where the plan said it. Threads
are a part of a run's signature, and a plan learns from each run."""


def settle(engine: Engine, plan: Plan, launcher: Mapping[str, Any], study: "Study | None" = None) -> None:
    """Gives the engine as many slots as the largest run of the sweep leaves room for, where that was asked for.

    Args:
        engine: that of the preflight, which has one slot for each GPU, or one.
        plan: the sweep's.
        launcher: the fields of ``hydra.launcher``.
        study: remembers the number; None of a dry run.
    """
    if not isinstance(engine, LocalEngine):
        return
    if launcher.get("workers_per_gpu") == AUTO and signature.device_kind() == "cpu":
        print(
            "note: hydra.launcher.workers_per_gpu=auto is for GPUs; on a CPU, hydra.launcher.workers=auto does the same"
        )
    if not _is_asked_for(launcher):
        return
    known = study.facts.get(SLOTS) if study is not None else None
    slots, why = (int(known), "as at the study's first start") if known else _by_plan(engine, plan)
    engine.resize(slots)
    if study is not None and known is None:
        study.note(SLOTS, slots)
    print(f"note: {slots} at a time, with {counted(engine.threads, 'CPU thread')} each: {why}")


def _is_asked_for(launcher: Mapping[str, Any]) -> bool:
    if signature.device_kind() == "cpu":
        return launcher.get("workers") == AUTO
    return launcher.get("workers") in (None, AUTO) and launcher.get("workers_per_gpu") == AUTO


def _by_plan(engine: LocalEngine, plan: Plan) -> tuple[int, str]:
    """How many runs the memory has room for, with a core each, and why, in words."""
    largest = _largest(plan, engine.threads)
    device = memory.of_device(signature.device_kind())
    if largest is None or device is None:
        return engine.slots, "the plan does not know what the runs need, or what there is"
    fit = max(1, int(MARGIN * device.total / (largest + device.context)))
    slots = max(engine.slots, min(fit * engine.slots, cores.usable_cores()))
    why = f"by the plan the largest run needs {units.size(largest)}, and {MARGIN:g} of {units.size(device.total)}"
    return slots, f"{why} {device.name} are used"


def _largest(plan: Plan, threads: int) -> float | None:
    """The memory of the largest run, one with each interval at its high end among them; None where one is not known."""
    points = [point for each in plan.points.values() for point in each]
    configs = [config for point in points for config in (point.config, point.at_high_ends)]
    predicted = [plan.predict(config, threads) for config in configs]
    kind = signature.device_kind()
    fitting = [(one.that_must_fit(kind), one.ranks if kind == "cpu" else 1) for one in predicted if one]
    return max((one.memory_bytes * ranks for one, ranks in fitting), default=None) if all(predicted) else None


def sharing(launcher: Mapping[str, Any], slots: int) -> int:
    """How many jobs of this machine share a GPU, or a group of them.

    Args:
        launcher: the fields of ``hydra.launcher``.
        slots: how many jobs there are at a time.
    """
    if "workers_per_gpu" not in launcher:  # Ray's GPUs are one job's, as far as it has whole ones
        return 1
    groups = len(gpus.visible()) // max(1, int(launcher.get("gpus_per_trial", 1)))
    return max(1, -(-slots // max(1, groups)))
