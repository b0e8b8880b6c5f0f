"""What a sweep would run: ``hydra.sweeper.dry_run=true``."""

from collections.abc import Sequence

from lowrung.engine.base import Engine
from lowrung.report.tables import counted, table
from lowrung.runs import inputs
from lowrung.runs.folder import kept_outcome
from lowrung.search.axes import Axis
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.runs import RunMaker
from lowrung.sweeps.stage import BEST, TIES, Stage


def render(plan: Plan, composer: Composer, engine: Engine) -> str:
    """The points of a sweep's grid, and how much of each is in the store, as text."""
    maker = RunMaker.of(plan, composer, engine.threads)
    stage = plan.search.stages[0]
    points = plan.points[stage.name]
    if not any(point.is_open for point in points):
        points = points[: plan.at_most_of(stage)]
    keys = list(dict.fromkeys(key for point in points for key in point.space.keys))
    rows = [_row(plan, maker, point, keys) for point in points]
    has_seeds = bool(points[0].space.seeds)
    found = table([*keys, "steps", *(["seeds"] if has_seeds else []), ""], rows, left=("",))
    head = f"study {plan.study}: {plan.counted}, {engine.slots} at a time"
    later = [_described(plan, stage) for stage in plan.search.stages[1:]]
    parts = [head, *([f"stage {stage.name}"] if later else []), found, *later, "a dry run: nothing was started"]
    return "\n" + "\n\n".join(parts)


def _described(plan: Plan, stage: Stage) -> str:
    """What is known of a stage that starts from what an earlier one finds."""
    starts = {BEST: "the best", TIES: "the best, and all that tie with it,"}
    spaces = [" ".join(_pair(part) for part in space.parts) for space in plan.search.own[stage.name]]
    seeds = [f"seed={','.join(map(str, space.seeds))}" for space in plan.search.own[stage.name][:1] if space.seeds]
    trials, runs = counted(plan.at_most_of(stage), "trial"), counted(plan.runs_of(stage), "run")
    start = starts.get(str(stage.start), f"the best {stage.start}")
    searched = " or ".join(filter(None, spaces))
    texts = " ".join(filter(None, [searched, *seeds]))
    return f"stage {stage.name}: {start} of {stage.of}, with {texts}: at most {trials}, {runs}"


def _pair(part: str | Axis) -> str:
    return part if isinstance(part, str) else f"{part.key}={part}"


def _row(plan: Plan, maker: RunMaker, point: GridPoint, keys: Sequence[str]) -> list[str]:
    space = point.space
    texts = {**space.texts(point.params), **{axis.key: str(axis) for axis in space.intervals}}
    steps = inputs.steps(point.config, plan.preflight(point.config))
    seeds = [",".join(map(str, space.seeds))] if space.seeds else []
    state = "drawn when it starts" if point.is_open else _in_store(maker, point)
    return [*(texts.get(key, "") for key in keys), str(steps), *seeds, state]


def _in_store(maker: RunMaker, point: GridPoint) -> str:
    """How many of a point's runs, one for each seed, have their results in the store."""
    folders = [maker.folder(config) for config in point.configs]
    kept = sum(kept_outcome(folder) is not None for folder in folders)
    if kept == len(folders):
        return "in the store"
    return f"{kept} of {len(folders)} in the store" if kept else "to train"
