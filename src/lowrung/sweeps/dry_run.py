"""What a sweep would run, and what that would take: ``hydra.sweeper.dry_run=true``."""

import dataclasses
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

from lowrung.config import signature
from lowrung.config.schema import Config
from lowrung.costs.prediction import Prediction
from lowrung.engine import gpus
from lowrung.engine.base import Engine
from lowrung.errors import UsageError
from lowrung.report.planned import PlannedMemory, PlannedPoint, PlannedStage, PlannedSweep, Remedy
from lowrung.runs import inputs
from lowrung.runs.folder import kept_outcome
from lowrung.search.axes import Axis
from lowrung.store import disk
from lowrung.store.parts import last_checkpoint
from lowrung.sweeps import affordable, corners, filling, plan_notes
from lowrung.sweeps.beforehand import BY_PLAN, Beforehand, Decision
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.corners import MIDDLE, Case
from lowrung.sweeps.filling import Left
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.predicting import Predictor, is_time_known
from lowrung.sweeps.remedies import Remedies
from lowrung.sweeps.room import Room
from lowrung.sweeps.runs import RunMaker
from lowrung.sweeps.stage import BEST, TIES, Stage


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A case, and what is known of it.

    Attributes:
        case: the point, or what stands for it.
        found: what one of its runs will take, as it was asked for.
        steps: optimiser steps of a run.
        decision: what becomes of it before it starts.
        starts: what one of its runs will take as it starts; its batches may be smaller.
    """

    case: Case
    found: Prediction | None
    steps: int
    decision: Decision
    starts: Prediction | None

    @property
    def is_run(self) -> bool:
        """Whether it is not left out."""
        return self.decision.skipped is None


class DryRun:
    """The plan of a sweep that is not started.

    Args:
        plan: the sweep's.
        composer: makes the jobs' configs.
        engine: that would run them.
    """

    def __init__(self, plan: Plan, composer: Composer, engine: Engine) -> None:
        self._plan = plan
        self._composer = composer
        self._slots, self._threads = engine.slots, engine.threads
        self._maker = RunMaker.of(plan, composer, engine.threads)
        self._launcher = composer.master.hydra.launcher
        self._predictor = Predictor(plan, engine, self._maker.gpus)
        self._beforehand = Beforehand(plan, self._maker, self._launcher, self._slots, self._predictor.whole)

    def planned(self) -> PlannedSweep:
        """What would be run, and what that would take."""
        first, *later = self._plan.search.stages
        of_first = [self._seen(point) for point in self._points(first)]
        of_later = {stage.name: self._all(self._plan.points[stage.name]) for stage in later}
        done = [[(each, self._progress(each)) for each in cases] for cases in of_first]
        points = [self._point(each, progress, first) for cases in done for each, progress in cases]
        stages = [self._later(stage, of_later[stage.name]) for stage in later]
        may_start = affordable.of(
            self._plan, self._launcher, self._slots, self._threads, self._left(first, done), stages
        )
        left, begun = may_start.left, may_start.stages
        every = [each for cases in [*of_first, *of_later.values()] for each in cases]
        memory = self._memory(every)
        sources = dict.fromkeys(each.found.source for each in every if each.found)
        may_be_less = bool(stages) or plan_notes.may_end_early(self._plan)
        free = shutil.disk_usage(disk.nearest(Path(self._plan.config.store).absolute())).free
        taken = filling.disk(left, begun, max((each.found.disk_bytes for each in every if each.found), default=0.0))
        time = filling.time(left, begun, self._slots, "; ".join(sources), at_most=may_be_less)
        notes = [
            *plan_notes.of(self._plan, memory, points),
            *plan_notes.of_disk(taken, free),
        ]
        return PlannedSweep(
            study=self._plan.study,
            device=signature.device_kind(),
            slots=self._slots,
            threads=self._threads,
            trials=self._plan.at_most,
            at_most=not self._plan.is_known,
            runs=sum(map(self._plan.runs_of, self._plan.search.stages)),
            kept=sum(point.kept for point in points),
            points=points,
            later=stages,
            memory=memory,
            time=time,
            budget=may_start.budget,
            disk_bytes=taken,
            disk_free=free,
            notes=notes,
            guesses=self._predictor.guesses,
            unfit=sum(point.fits is False for point in points),
            refused=self._refused(),
        )

    def _refused(self) -> str | None:
        """Why the sweep itself would not start. It is no error here: the plan shows what would fit."""
        try:
            self._beforehand.require()
        except UsageError as error:
            return str(error)
        return None

    def _points(self, stage: Stage) -> Sequence[GridPoint]:
        """The points of the first stage that would be run."""
        points = self._plan.points[stage.name]
        return points if any(point.is_open for point in points) else points[: self._plan.at_most_of(stage)]

    def _seen(self, point: GridPoint) -> list[_Seen]:
        cases = corners.cases(point, self._composer, self._weighed)
        return list(map(self._decided, cases))

    def _decided(self, case: Case) -> _Seen:
        config = case.configs[0]
        decision = self._beforehand.of(config)
        starts = self._predictor.of(self._beforehand.started(config, decision))
        return _Seen(case, *self._known(config), decision, starts)

    def _all(self, points: Sequence[GridPoint]) -> list[_Seen]:
        return list(itertools.chain.from_iterable(map(self._seen, points)))

    def _known(self, config: Config) -> tuple[Prediction | None, int]:
        """What a run will take, and its steps."""
        return self._predictor.of(config), inputs.steps(config, self._plan.preflight(config))

    def _weighed(self, config: Config) -> object:
        """What of a run is planned, for comparison."""
        found, steps = self._known(config)
        return steps, found and dataclasses.replace(found, source="")

    def _point(self, seen: _Seen, left: Sequence[int], stage: Stage) -> PlannedPoint:
        """A point, and from which steps its runs go on that are left."""
        found, config = seen.starts, seen.case.configs[0]
        seconds = found.seconds if found and is_time_known() else None
        shares = [1 - step / seen.steps for step in left]
        return PlannedPoint(
            point=seen.case.texts,
            at=seen.case.at,
            stage=stage.name,
            seeds=[each.seed for each in seen.case.configs],
            steps=seen.steps,
            left_out=seen.decision.skipped and seen.decision.skipped.removeprefix(BY_PLAN),
            halvings=seen.decision.halvings,
            trainable=None if found is None else found.trainable,
            memory_bytes=None if found is None else found.memory_bytes,
            seconds=seconds,
            seconds_left=None if seconds is None else seconds * sum(shares) * seen.is_run,
            disk_bytes=None if found is None else found.disk_bytes,
            kept=len(seen.case.configs) - len(left),
            from_step=max(left, default=0),
            fits=None if seen.found is None else self._beforehand.room(config).fits(seen.found),
        )

    def _progress(self, seen: _Seen) -> list[int]:
        """From which step each run goes on that is left; of drawn values nothing is known to be done."""
        if seen.case.is_drawn:
            return [0] * len(seen.case.configs)
        started = [self._beforehand.started(config, seen.decision) for config in seen.case.configs]
        folders = list(map(self._maker.folder, started))
        return [last_checkpoint(folder) for folder in folders if kept_outcome(folder) is None]

    def _left(self, stage: Stage, done: Sequence[Sequence[tuple[_Seen, Sequence[int]]]]) -> list[list[Left]]:
        """The runs of the first stage that are left and not left out, in order, by what a budget lets start as one.

        A trial whose values are drawn counts as one in the middle of its space, or at a corner where that is left out:
        another one is drawn in the place of each that is.
        """
        run = [[one for one in point if one[0].is_run] for point in done]
        middles = [next((one for one in point if one[0].case.at == MIDDLE), point[0]) for point in run if point]
        fixed = [one for one in middles if not one[0].case.is_drawn]
        drawn = [one for one in middles if one[0].case.is_drawn]
        left_out = sum(not point and not cases[0][0].case.is_drawn for point, cases in zip(run, done, strict=True))
        trials = max(self._plan.at_most_of(stage) - len(fixed) - left_out, 0)
        in_turn = [*fixed, *itertools.islice(itertools.cycle(drawn), trials)]
        left = [[Left(seen.starts, 1 - step / seen.steps) for step in steps] for seen, steps in in_turn]
        return [*left[: len(fixed)], *([run] for trial in left[len(fixed) :] for run in trial)]

    def _later(self, stage: Stage, cases: Sequence[_Seen]) -> PlannedStage:
        cases = [each for each in cases if each.is_run]
        known = [each.starts for each in cases if each.starts is not None]
        runs = self._plan.runs_of(stage) if cases else 0
        is_known = is_time_known() and len(known) == len(cases)
        return PlannedStage(
            name=stage.name,
            start=_described(self._plan, stage),
            trials=self._plan.at_most_of(stage),
            runs=runs,
            seconds=max((each.seconds for each in known), default=0.0) * runs if is_known else None,
            memory_bytes=max(each.memory_bytes for each in known) if known else None,
        )

    def _memory(self, cases: Sequence[_Seen]) -> PlannedMemory | None:
        """Of the run that is largest beside its room, as it was asked for; not of what a constraint leaves out."""
        asked = [each for each in cases if each.is_run or each.decision.is_too_large] or cases
        found = [(each.found, each.case) for each in asked if each.found]
        if not found:
            return None
        rooms = {id(case): self._beforehand.room(case.configs[0]).bytes or 1.0 for _, case in found}
        largest, case = max(found, key=lambda one: (one[0].memory_bytes / rooms[id(one[1])], one[0].memory.training))
        memory, own = largest.memory, self._beforehand.room(case.configs[0])
        is_cpu = signature.device_kind() == "cpu"
        phases = {name: getattr(memory, name) for name in ("loading", "training", "evaluation", "gate")}
        return PlannedMemory(
            point=case.texts,
            parts=memory.parts,
            phases=phases,
            predicted=largest.memory_bytes,
            correction=largest.memory_bytes / max(held for name, held in phases.items() if is_cpu or name != "gate"),
            room=own.bytes,
            room_free=own.free,
            room_name=own.name,
            at_once=own.at_once,
            remedies=self._remedies(case.configs[0], own) if own.fits(largest) is False else (),
        )

    def _remedies(self, config: Config, own: Room) -> Sequence[Remedy]:
        is_cuda = signature.device_kind() == "cuda"
        workers = "hydra.launcher.workers_per_gpu" if is_cuda else "hydra.launcher.workers"
        known = Remedies(self._predictor.with_found, own, len(gpus.visible()) if is_cuda else 0, workers)
        return known.of(config, self._plan.preflight(config))


def _described(plan: Plan, stage: Stage) -> str:
    """What a stage starts from, and what it searches."""
    starts = {BEST: "the best", TIES: "the best, and all that tie with it,"}
    spaces = [" ".join(_pair(part) for part in space.parts) for space in plan.search.own[stage.name]]
    seeds = [f"seed={','.join(map(str, space.seeds))}" for space in plan.search.own[stage.name][:1] if space.seeds]
    start = starts.get(str(stage.start), f"the best {stage.start}")
    searched = " or ".join(filter(None, spaces))
    return f"{start} of {stage.of}, with {' '.join(filter(None, [searched, *seeds]))}"


def _pair(part: str | Axis) -> str:
    return part if isinstance(part, str) else f"{part.key}={part}"
