"""What a sweep is planned to take: the shape of a dry run's answer. `lowrung.report.plan_text` is its text."""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class PlannedPoint:
    """A point of the grid; of a space with intervals its corners and its middle.

    Attributes:
        point: its values, by key, as text; an interval that changes nothing here stands as it is.
        at: ``corner`` or ``middle`` of a space that is searched; empty for a point of the grid.
        stage: the stage's name; empty where the sweep has none.
        seeds: what each of its trials is trained with.
        steps: optimiser steps of a run.
        left_out: why none of its runs is trained, by the plan; null where they are.
        halvings: how often its batches are halved before it starts, since it does not fit as it was asked for; what
            follows is that of the smaller batches.
        trainable: parameters; null where they could not be counted.
        memory_bytes: the most that a run holds of its device's memory; null where it is not known.
        seconds: of one run, alone on its slot; null where it is not known.
        seconds_left: of all its runs that are not done; 0 where all are; null where it is not known.
        disk_bytes: what a run leaves in the store; null where it is not known.
        kept: how many of its runs have their results in the store.
        from_step: the checkpoint that its first run goes on from; 0 where it starts anew.
        fits: whether a run as it was asked for fits its device's memory; null where it is not known.
    """

    point: Mapping[str, str]
    at: str
    stage: str
    seeds: Sequence[int]
    steps: int
    left_out: str | None
    halvings: int
    trainable: int | None
    memory_bytes: float | None
    seconds: float | None
    seconds_left: float | None
    disk_bytes: float | None
    kept: int
    from_step: int
    fits: bool | None


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """A stage that starts from what an earlier one finds.

    Attributes:
        name: the stage's.
        start: what it starts from and what it searches, in words.
        trials: at most.
        runs: at most.
        seconds: of all its runs at most, one after the other; null where it is not known.
        memory_bytes: of its largest run; null where it is not known.
    """

    name: str
    start: str
    trials: int
    runs: int
    seconds: float | None
    memory_bytes: float | None


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Settings with which a run that does not fit would.

    Attributes:
        settings: the overrides.
        price: what they cost, in words.
        memory_bytes: the run's peak with them.
        seconds: of the run with them; null where it is not known.
        room: what the run has with them.
    """

    settings: Sequence[str]
    price: str
    memory_bytes: float
    seconds: float | None
    room: float


@dataclasses.dataclass(frozen=True)
class PlannedMemory:
    """The memory of the largest run that no constraint leaves out, in bytes, with the batches that were asked for.

    Attributes:
        point: the run's.
        parts: of training, which add up: ``libraries``, ``weights``, ``adapter``, ``gradients``, ``optimizer``,
            ``activations``, ``logits``.
        phases: what is held at most in each, one after the other: ``training``, ``gate``, ``evaluation``, ``loading``.
        predicted: what the run must have: the largest phase, times ``correction``; on a GPU without the gate, which
            goes to the CPU where the GPU's memory does not suffice.
        correction: what earlier runs held, over what the formulas say of them, and on a CPU the run's ranks; 1 where
            there are none.
        room: the device's memory that a run has; null where it is not known.
        room_free: what of it is free now; null where it is not known.
        room_name: what it is, in words.
        at_once: how many runs share it.
        remedies: settings with which it would fit, the cheapest first; none where it fits.
    """

    point: Mapping[str, str]
    parts: Mapping[str, float]
    phases: Mapping[str, float]
    predicted: float
    correction: float
    room: float | None
    room_free: float | None
    room_name: str
    at_once: int
    remedies: Sequence[Remedy]

    @property
    def is_too_much(self) -> bool:
        """Whether the largest run does not fit."""
        return self.room is not None and self.predicted > self.room


@dataclasses.dataclass(frozen=True)
class PlannedTime:
    """When the sweep would end, were it started now.

    Attributes:
        seconds: until the end, runs of all stages included, as they fill the slots.
        at_most: whether it is a bound: where a later stage, a pruner or early stopping decides.
        ends: the end, as ISO 8601 with its offset; null where nothing is left to train.
        idle: share of the slots' time in which they have no run.
        source: where the speed is from.
    """

    seconds: float
    at_most: bool
    ends: str | None
    idle: float
    source: str


@dataclasses.dataclass(frozen=True)
class PlannedBudget:
    """What of the study's budget the plan takes.

    Attributes:
        unit: ``GPU hours`` or ``CPU hours``.
        hours: the budget.
        spent: of it so far, by runs of earlier starts.
        needed: by all runs that are left; null where it is not known.
        runs: how many are left.
        starts: how many of them start; null where it is not known.
        cost_per_hour: null where nobody said.
    """

    unit: str
    hours: float
    spent: float
    needed: float | None
    runs: int
    starts: int | None
    cost_per_hour: float | None


@dataclasses.dataclass(frozen=True)
class PlannedSweep:
    """What a sweep would run, and what that is planned to take. Nothing was started.

    Attributes:
        study: the study's name.
        device: what runs compute on: ``cpu`` or ``cuda``.
        slots: how many runs at a time.
        threads: CPU threads of each.
        trials: of all stages.
        at_most: whether they may be fewer, since what ties decides.
        runs: of all trials, at most.
        kept: of the runs that are known, how many have their results in the store.
        points: of the first stage.
        later: the other stages.
        memory: of the largest run; null where no size is known.
        time: of the runs that start; null where it is not known.
        budget: null where there is none.
        disk_bytes: what the runs that start leave in the store at most; null where it is not known.
        disk_free: what its disk has free.
        notes: what else to know, a sentence each.
        guesses: what was not known, each with what was taken in its place.
        unfit: how many points of the first stage do not fit as they were asked for.
        refused: why the sweep itself would start nothing; null where it would.
    """

    study: str
    device: str
    slots: int
    threads: int
    trials: int
    at_most: bool
    runs: int
    kept: int
    points: Sequence[PlannedPoint]
    later: Sequence[PlannedStage]
    memory: PlannedMemory | None
    time: PlannedTime | None
    budget: PlannedBudget | None
    disk_bytes: float | None
    disk_free: float
    notes: Sequence[str]
    guesses: Sequence[str]
    unfit: int
    refused: str | None
