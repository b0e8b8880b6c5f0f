"""What else to know of a plan, a sentence each."""

from collections.abc import Iterator, Sequence

from lowrung.config import signature
from lowrung.costs.units import size
from lowrung.engine.assumed import MACHINE
from lowrung.report.planned import PlannedMemory, PlannedPoint
from lowrung.report.tables import counted
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.predicting import is_time_known


def of(plan: Plan, memory: PlannedMemory | None, points: Sequence[PlannedPoint]) -> Iterator[str]:
    """What limits the plan, and what it does not know."""
    unfit = sum(point.fits is False for point in points)
    if 0 < unfit < len(points):
        yield f"{unfit} of {counted(len(points), 'point')} do not fit as asked for"
    if memory is not None:
        yield from _of_memory(memory)
    if not is_time_known():
        held = ", nor held to plan/seconds" if "plan/seconds" in (plan.settings.constraints or {}) else ""
        how = "tflops:400 in hydra.sweeper.plan_for, say"
        yield f"how fast that machine is was not said, so no time is given{held}: {how}"
    if any(point.at for point in points):
        yield "a trial whose values are drawn counts as one in the middle of its space"
    if may_end_early(plan):
        yield "the pruner or early stopping may end runs before their last step: times are at most"
    if plan.settings.timeout is not None:
        yield f"no trial starts after hydra.sweeper.timeout={plan.settings.timeout}"


def _of_memory(memory: PlannedMemory) -> Iterator[str]:
    if memory.room is None:
        where = "of this machine" if MACHINE.get() is None else "of that machine"
        yield f"the memory {where} is not known: hydra.sweeper.plan_for={{memory:80GB}}, say, tells whether runs fit"
    elif signature.device_kind() == "cuda" and memory.phases["gate"] * memory.correction > memory.room:
        held = size(memory.phases["gate"] * memory.correction)
        yield f"the gate has {held}, more than the GPU, so it goes to the CPU: it takes as much main memory, and longer"
    elif memory.room_free is not None and memory.room_free < memory.predicted <= memory.room:
        others = f", as {memory.at_once} runs share it" if memory.at_once > 1 else ""
        yield f"only {size(memory.room_free)} of the {memory.room_name} are free for a run now{others}"


def of_disk(taken: float | None, free: float) -> Iterator[str]:
    """Whether a disk has too little room."""
    if taken is not None and taken > free:
        yield f"the store's disk has {size(free)} free, which is too little: store=/another/disk names another one"


def may_end_early(plan: Plan) -> bool:
    """Whether runs may end before their last step."""
    configs = (config for points in plan.points.values() for point in points for config in point.configs[:1])
    is_pruned = plan.settings.pruner["name"] != "none"
    return is_pruned or any(config.train.early_stopping is not None for config in configs)
