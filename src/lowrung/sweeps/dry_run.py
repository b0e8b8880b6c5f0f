"""What a sweep would run: ``hydra.sweeper.dry_run=true``."""

from collections.abc import Iterator

from lowrung.engine.base import Engine
from lowrung.report.tables import counted, table
from lowrung.runs import inputs
from lowrung.runs.folder import kept_outcome
from lowrung.sweeps.plan import Composer, GridPoint, Plan
from lowrung.sweeps.queue import store_folder


def render(plan: Plan, composer: Composer, engine: Engine) -> str:
    """The points of a sweep's grid, and how much of each is in the store, as text."""
    space = plan.space
    searched = {axis.key: str(axis) for axis in space.intervals}
    rows = []
    for point in plan.points[: plan.n_trials]:
        texts = {**space.texts(point.params), **searched}
        steps = inputs.steps(point.config, plan.preflight(point.config))
        seeds = [",".join(map(str, space.seeds))] if space.seeds else []
        state = "drawn when it starts" if searched else _state(list(_are_kept(plan, composer, engine, point)))
        rows.append([*(texts[key] for key in space.keys), str(steps), *seeds, state])
    points = table([*space.keys, "steps", *(["seeds"] if space.seeds else []), ""], rows, left=("",))
    head = f"study {plan.study}: {counted(plan.n_trials, 'trial')}, {engine.slots} at a time"
    return f"\n{head}\n\n{points}\n\na dry run: nothing was started"


def _are_kept(plan: Plan, composer: Composer, engine: Engine, point: GridPoint) -> Iterator[bool]:
    for seed in plan.space.seeds or (point.config.seed,):
        config = composer.config([*plan.space.overrides(point.params), f"seed={seed}"])
        yield kept_outcome(store_folder(plan, config, engine.threads)) is not None


def _state(are_kept: list[bool]) -> str:
    kept = sum(are_kept)
    if kept == len(are_kept):
        return "in the store"
    return f"{kept} of {len(are_kept)} in the store" if kept else "to train"
