"""What a sweep would run: ``hydra.sweeper.dry_run=true``."""

from lowrung.engine.base import Engine
from lowrung.report.tables import counted, table
from lowrung.runs import inputs
from lowrung.runs.folder import kept_outcome
from lowrung.sweeps.composer import Composer, GridPoint
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.runs import RunMaker


def render(plan: Plan, composer: Composer, engine: Engine) -> str:
    """The points of a sweep's grid, and how much of each is in the store, as text."""
    space, maker = plan.space, RunMaker.of(plan, composer, engine.threads)
    searched = {axis.key: str(axis) for axis in space.intervals}
    rows = []
    for point in plan.points[: plan.n_trials]:
        texts = {**space.texts(point.params), **searched}
        steps = inputs.steps(point.config, plan.preflight(point.config))
        seeds = [",".join(map(str, space.seeds))] if space.seeds else []
        state = "drawn when it starts" if searched else _in_store(maker, point)
        rows.append([*(texts[key] for key in space.keys), str(steps), *seeds, state])
    points = table([*space.keys, "steps", *(["seeds"] if space.seeds else []), ""], rows, left=("",))
    head = f"study {plan.study}: {counted(plan.n_trials, 'trial')}, {engine.slots} at a time"
    return f"\n{head}\n\n{points}\n\na dry run: nothing was started"


def _in_store(maker: RunMaker, point: GridPoint) -> str:
    """How many of a point's runs, one for each seed, have their results in the store."""
    folders = [maker.folder(config) for config in point.configs]
    kept = sum(kept_outcome(folder) is not None for folder in folders)
    if kept == len(folders):
        return "in the store"
    return f"{kept} of {len(folders)} in the store" if kept else "to train"
