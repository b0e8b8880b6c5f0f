"""What a sweep would run, and what that would take: ``hydra.sweeper.dry_run=true``."""

import dataclasses
import itertools
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from lowrung.config import signature
from lowrung.config.schema import Config
from lowrung.engine import gpus
from lowrung.engine.base import Engine
from lowrung.report.planned import PlannedMemory, PlannedPoint, PlannedStage, PlannedSweep, PlannedTime, Remedy
from lowrung.runs import inputs
from lowrung.runs.folder import kept_outcome, last_checkpoint
from lowrung.search.axes import Axis
from lowrung.store import disk
from lowrung.sweeps import corners, filling, plan_notes, room
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.corners import MIDDLE, Case
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.predicting import Predictor, is_time_known
from lowrung.sweeps.remedies import Remedies
from lowrung.sweeps.room import Room
from lowrung.sweeps.runs import RunMaker
from lowrung.sweeps.stage import BEST, TIES, Stage


@dataclasses.dataclass(frozen=True)
class _Done:
    """What of a point is done already.

    Attributes:
        case: the point.
        left: the configs of the runs that are left, each with the share of it that is.
        from_step: the latest checkpoint of these.
    """

    case: Case
    left: Sequence[tuple[Config, float]]
    from_step: int


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
        self._rooms: dict[bool, Room] = {}
        self._predictor = Predictor(plan, engine, self._maker.gpus)

    def planned(self) -> PlannedSweep:
        """What would be run, and what that would take."""
        first, *later = self._plan.search.stages
        own = self._points(first)
        every = {first.name: self._cases(own)} | {
            stage.name: self._cases(self._plan.points[stage.name]) for stage in later
        }
        done = [[self._done(case) for case in cases] for cases in every[first.name]]
        points = [self._planned(each, first) for each in itertools.chain(*done)]
        stages = [self._later(stage, list(itertools.chain(*every[stage.name]))) for stage in later]
        left = self._left(first, done)
        cases = [case for each in every.values() for cases in each for case in cases]
        memory = self._memory(cases)
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
            time=self._time(left, stages, cases),
            disk_bytes=self._disk(left, stages, cases),
            disk_free=shutil.disk_usage(disk.nearest(Path(self._plan.config.store).absolute())).free,
            notes=list(plan_notes.of(self._plan, memory, points)),
            guesses=self._predictor.guesses,
            unfit=sum(point.fits is False for point in points),
        )

    def _points(self, stage: Stage) -> Sequence[GridPoint]:
        """The points of the first stage that would be run."""
        points = self._plan.points[stage.name]
        return points if any(point.is_open for point in points) else points[: self._plan.at_most_of(stage)]

    def _cases(self, points: Sequence[GridPoint]) -> list[list[Case]]:
        return [corners.cases(point, self._composer, self._weighed) for point in points]

    def _weighed(self, config: Config) -> object:
        """What of a run is planned, for comparison."""
        found = self._predictor.of(config)
        return self._steps(config), found and dataclasses.replace(found, source="")

    def _steps(self, config: Config) -> int:
        return inputs.steps(config, self._plan.preflight(config))

    def _planned(self, done: _Done, stage: Stage) -> PlannedPoint:
        case = done.case
        config = case.configs[0]
        found = self._predictor.of(config)
        seconds = found.seconds if found and is_time_known() else None
        return PlannedPoint(
            point=case.texts,
            at=case.at,
            stage=stage.name,
            seeds=[each.seed for each in case.configs],
            steps=self._steps(config),
            trainable=None if found is None else found.trainable,
            memory_bytes=None if found is None else found.memory_bytes,
            seconds=seconds,
            seconds_left=None if seconds is None else seconds * sum(share for _, share in done.left),
            disk_bytes=None if found is None else found.disk_bytes,
            kept=len(case.configs) - len(done.left),
            from_step=done.from_step,
            fits=self._fits(config),
        )

    def _done(self, case: Case) -> _Done:
        """What of a point is done already; of one whose values are drawn nothing is known to be."""
        if case.is_drawn:
            return _Done(case, [(config, 1.0) for config in case.configs], 0)
        folders = [(config, self._maker.folder(config)) for config in case.configs]
        left = [(config, last_checkpoint(folder)) for config, folder in folders if kept_outcome(folder) is None]
        shares = [(config, 1 - step / self._steps(config)) for config, step in left]
        return _Done(case, shares, max((step for _, step in left), default=0))

    def _room(self, config: Config) -> Room:
        """A run's room; the machine is asked once."""
        is_spread = config.model.device_map == "auto"
        if is_spread not in self._rooms:
            self._rooms[is_spread] = room.of_run(config, self._launcher, self._slots)
        return self._rooms[is_spread]

    def _fits(self, config: Config) -> bool | None:
        found, own = self._predictor.of(config), self._room(config)
        return None if found is None or own.bytes is None else found.memory_bytes <= own.bytes

    def _left(self, stage: Stage, done: Sequence[Sequence[_Done]]) -> list[tuple[Config, float]]:
        """The runs of the first stage that are left, in order, each with the share of it that is left.

        A trial whose values are drawn counts as one in the middle of its space.
        """
        middles = [next((each for each in point if each.case.at == MIDDLE), point[0]) for point in done]
        fixed = [each for each in middles if not each.case.is_drawn]
        drawn = [each for each in middles if each.case.is_drawn]
        trials = max(self._plan.at_most_of(stage) - len(fixed), 0)
        in_turn = [*fixed, *itertools.islice(itertools.cycle(drawn), trials)]
        return [run for each in in_turn for run in each.left]

    def _later(self, stage: Stage, cases: Sequence[Case]) -> PlannedStage:
        found = [self._predictor.of(case.configs[0]) for case in cases]
        known = [each for each in found if each is not None]
        runs, is_known = self._plan.runs_of(stage), is_time_known() and len(known) == len(found)
        return PlannedStage(
            name=stage.name,
            start=_described(self._plan, stage),
            trials=self._plan.at_most_of(stage),
            runs=runs,
            seconds=max(each.seconds for each in known) * runs if is_known else None,
            memory_bytes=max(each.memory_bytes for each in known) if known else None,
        )

    def _memory(self, cases: Sequence[Case]) -> PlannedMemory | None:
        """Of the largest run of all stages."""
        found = [(each, case) for case in cases if (each := self._predictor.of(case.configs[0]))]
        if not found:
            return None
        largest, case = max(found, key=lambda pair: pair[0].memory_bytes)
        parts = dataclasses.asdict(largest.memory)
        own = self._room(case.configs[0])
        return PlannedMemory(
            point=case.texts,
            parts={name: part for name, part in parts.items() if name != "gate"},
            gate=largest.memory.gate,
            predicted=largest.memory_bytes,
            correction=largest.memory_bytes / largest.memory.peak,
            room=own.bytes,
            room_free=own.free,
            room_name=own.name,
            at_once=own.at_once,
            remedies=self._remedies(case.configs[0], own) if self._fits(case.configs[0]) is False else (),
        )

    def _remedies(self, config: Config, own: Room) -> Sequence[Remedy]:
        is_cuda = signature.device_kind() == "cuda"
        workers = "hydra.launcher.workers_per_gpu" if is_cuda else "hydra.launcher.workers"
        known = Remedies(self._predictor.with_found, own, len(gpus.visible()) if is_cuda else 0, workers)
        return known.of(config, self._plan.preflight(config))

    def _time(
        self, left: Sequence[tuple[Config, float]], stages: Sequence[PlannedStage], cases: Sequence[Case]
    ) -> PlannedTime | None:
        """Until the end, were the sweep started now."""
        predictions = [self._predictor.of(config) for config, _ in left]
        known = [each for each in predictions if each is not None]
        if not is_time_known() or len(known) < len(left) or any(stage.seconds is None for stage in stages):
            return None
        first = [each.seconds * share for each, (_, share) in zip(known, left, strict=True)]
        later = [[(stage.seconds or 0.0) / max(stage.runs, 1)] * stage.runs for stage in stages]
        seconds = sum(filling.end_of(each, self._slots) for each in [first, *later])
        busy = sum(map(sum, [first, *later]))
        sources = [each.source for case in cases if (each := self._predictor.of(case.configs[0]))]
        return PlannedTime(
            seconds=seconds,
            at_most=bool(stages) or plan_notes.may_end_early(self._plan),
            ends=(datetime.now().astimezone() + timedelta(seconds=seconds)).isoformat("T", "seconds") if left else None,
            idle=1 - busy / (seconds * self._slots) if seconds else 0.0,
            source="; ".join(dict.fromkeys(sources)),
        )

    def _disk(
        self, left: Sequence[tuple[Config, float]], stages: Sequence[PlannedStage], cases: Sequence[Case]
    ) -> float | None:
        """Bytes that the runs that are left leave at most."""
        found = [self._predictor.of(config) for config, _ in left]
        most = max((each.disk_bytes for case in cases if (each := self._predictor.of(case.configs[0]))), default=0.0)
        if any(each is None for each in found):
            return None
        return sum(each.disk_bytes for each in found if each) + most * sum(stage.runs for stage in stages)


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
