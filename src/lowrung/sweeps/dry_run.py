"""What a sweep would run, and what that would take: ``hydra.sweeper.dry_run=true``."""

import dataclasses
import itertools
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from lowrung.config import schema, signature
from lowrung.config.schema import Config
from lowrung.costs.prediction import Prediction
from lowrung.engine.base import Engine
from lowrung.report.planned import PlannedMemory, PlannedPoint, PlannedStage, PlannedSweep, PlannedTime
from lowrung.runs import inputs
from lowrung.runs.folder import kept_outcome, last_checkpoint
from lowrung.search.axes import Axis
from lowrung.store import disk
from lowrung.sweeps import corners, filling, room
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.corners import MIDDLE, Case
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.runs import RunMaker
from lowrung.sweeps.stage import BEST, TIES, Stage


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
        self._known: dict[str, Prediction | None] = {}

    def planned(self) -> PlannedSweep:
        """What would be run, and what that would take."""
        first, *later = self._plan.search.stages
        own = self._points(first)
        every = {first.name: self._cases(own)} | {
            stage.name: self._cases(self._plan.points[stage.name]) for stage in later
        }
        points = [self._planned(case, first) for case in itertools.chain(*every[first.name])]
        stages = [self._later(stage, list(itertools.chain(*every[stage.name]))) for stage in later]
        left = self._left(first, every[first.name])
        cases = [case for each in every.values() for cases in each for case in cases]
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
            memory=self._memory(cases),
            time=self._time(left, stages, cases),
            disk_bytes=self._disk(left, stages, cases),
            disk_free=shutil.disk_usage(disk.nearest(Path(self._plan.config.store).absolute())).free,
            notes=(),
            guesses=list(dict.fromkeys(guess for found in self._known.values() if found for guess in found.guesses)),
        )

    def _points(self, stage: Stage) -> Sequence[GridPoint]:
        """The points of the first stage that would be run."""
        points = self._plan.points[stage.name]
        return points if any(point.is_open for point in points) else points[: self._plan.at_most_of(stage)]

    def _cases(self, points: Sequence[GridPoint]) -> list[list[Case]]:
        return [corners.cases(point, self._composer, self._weighed) for point in points]

    def _weighed(self, config: Config) -> object:
        """What of a run is planned, for comparison."""
        found = self._predicted(config)
        return self._steps(config), found and dataclasses.replace(found, source="")

    def _predicted(self, config: Config) -> Prediction | None:
        config = inputs.with_ranks(config, self._maker.gpus)
        train = dataclasses.replace(config.train, learning_rate=None, rate_factor=1.0)
        key = schema.digest([config.model, config.data, config.lora, train, config.verify])
        if key not in self._known:
            self._known[key] = self._plan.predict(config, self._threads)
        return self._known[key]

    def _steps(self, config: Config) -> int:
        return inputs.steps(config, self._plan.preflight(config))

    def _planned(self, case: Case, stage: Stage) -> PlannedPoint:
        config = case.configs[0]
        found, steps = self._predicted(config), self._steps(config)
        folders = [] if case.is_drawn else [self._maker.folder(each) for each in case.configs]
        left = [folder for folder in folders if kept_outcome(folder) is None]
        from_steps = [last_checkpoint(folder) for folder in left]
        runs_left = len(case.configs) if case.is_drawn else sum(1 - step / steps for step in from_steps)
        return PlannedPoint(
            point=case.texts,
            at=case.at,
            stage=stage.name,
            seeds=[each.seed for each in case.configs],
            steps=steps,
            trainable=None if found is None else found.trainable,
            memory_bytes=None if found is None else found.memory_bytes,
            seconds=None if found is None else found.seconds,
            seconds_left=None if found is None else found.seconds * runs_left,
            disk_bytes=None if found is None else found.disk_bytes,
            kept=len(folders) - len(left),
            from_step=max(from_steps, default=0),
            fits=self._fits(config),
        )

    def _fits(self, config: Config) -> bool | None:
        found, own = self._predicted(config), room.of_run(config, self._launcher, self._slots)
        return None if found is None or own.bytes is None else found.memory_bytes <= own.bytes

    def _left(self, stage: Stage, cases: Sequence[Sequence[Case]]) -> list[tuple[Config, float]]:
        """The runs of the first stage that are left, in order, each with the share of it that is left.

        A trial whose values are drawn counts as one in the middle of its space.
        """
        middles = [next((case for case in each if case.at == MIDDLE), each[0]) for each in cases]
        runs: list[tuple[Config, float]] = []
        drawn = [case for case in middles if case.is_drawn]
        for case in (case for case in middles if not case.is_drawn):
            for config in case.configs:
                folder = self._maker.folder(config)
                if kept_outcome(folder) is None:
                    runs.append((config, 1 - last_checkpoint(folder) / self._steps(config)))
        trials = self._plan.at_most_of(stage) - (len(middles) - len(drawn))
        in_turn = itertools.islice(itertools.cycle(drawn), max(trials, 0))
        return runs + [(config, 1.0) for case in in_turn for config in case.configs]

    def _later(self, stage: Stage, cases: Sequence[Case]) -> PlannedStage:
        found = [self._predicted(case.configs[0]) for case in cases]
        known = [each for each in found if each is not None]
        runs = self._plan.runs_of(stage)
        return PlannedStage(
            name=stage.name,
            start=_described(self._plan, stage),
            trials=self._plan.at_most_of(stage),
            runs=runs,
            seconds=max(each.seconds for each in known) * runs if len(known) == len(found) else None,
            memory_bytes=max(each.memory_bytes for each in known) if known else None,
        )

    def _memory(self, cases: Sequence[Case]) -> PlannedMemory | None:
        """Of the largest run of all stages."""
        found = [(each, case) for case in cases if (each := self._predicted(case.configs[0]))]
        if not found:
            return None
        largest, case = max(found, key=lambda pair: pair[0].memory_bytes)
        parts = dataclasses.asdict(largest.memory)
        own = room.of_run(case.configs[0], self._launcher, self._slots)
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
            remedies=(),
        )

    def _time(
        self, left: Sequence[tuple[Config, float]], stages: Sequence[PlannedStage], cases: Sequence[Case]
    ) -> PlannedTime | None:
        """Until the end, were the sweep started now."""
        predictions = [self._predicted(config) for config, _ in left]
        known = [each for each in predictions if each is not None]
        if len(known) < len(left) or any(stage.seconds is None for stage in stages):
            return None
        first = [each.seconds * share for each, (_, share) in zip(known, left, strict=True)]
        later = [[(stage.seconds or 0.0) / max(stage.runs, 1)] * stage.runs for stage in stages]
        seconds = sum(filling.end_of(each, self._slots) for each in [first, *later])
        busy = sum(map(sum, [first, *later]))
        sources = [each.source for case in cases if (each := self._predicted(case.configs[0]))]
        return PlannedTime(
            seconds=seconds,
            at_most=bool(stages) or self._may_end_early,
            ends=(datetime.now().astimezone() + timedelta(seconds=seconds)).isoformat("T", "seconds") if left else None,
            idle=1 - busy / (seconds * self._slots) if seconds else 0.0,
            source="; ".join(dict.fromkeys(sources)),
        )

    @property
    def _may_end_early(self) -> bool:
        is_pruned = self._plan.settings.pruner["name"] != "none"
        return is_pruned or self._plan.config.train.early_stopping is not None

    def _disk(
        self, left: Sequence[tuple[Config, float]], stages: Sequence[PlannedStage], cases: Sequence[Case]
    ) -> float | None:
        """Bytes that the runs that are left leave at most."""
        found = [self._predicted(config) for config, _ in left]
        most = max((each.disk_bytes for case in cases if (each := self._predicted(case.configs[0]))), default=0.0)
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
