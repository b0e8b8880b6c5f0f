"""What is decided of a run before it starts, by the plan: whether it is run, and with which batches."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lowrung.config import signature
from lowrung.config.schema import Config
from lowrung.costs import units
from lowrung.costs.prediction import PLANNED, Prediction
from lowrung.errors import UsageError
from lowrung.report import leaderboard
from lowrung.runs import inputs
from lowrung.runs.folder import kept_outcome
from lowrung.search import constraints
from lowrung.search.constraints import Constraint
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps import room
from lowrung.sweeps.budget import Budget, amount
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.predicting import is_time_known
from lowrung.sweeps.runs import RunMaker, halved
from lowrung.sweeps.spending import gpus_of

SKIP, HALVE, FAIL = ON_OOM = ("skip", "halve", "fail")
"""What ``hydra.sweeper.on_oom`` can be."""

BY_PLAN = "by the plan "
"""How the reason begins why a run is not run."""

SURELY = 0.7
"""The part of a predicted peak that must not fit for a run to be left out. Half of all predictions are within 15%: at
twice that a run that is left out would have failed, and one that may fit is tried."""

_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is to be done with a run.

    Attributes:
        planned: what it would take, by metric name; none where that is not known.
        skipped: why it is not run, in words; None where it is.
        halvings: how often its batches are halved before it starts.
        said: why they are, in words.
        is_too_large: whether it is not run since it does not fit.
    """

    planned: Mapping[str, float] = dataclasses.field(default_factory=dict)
    skipped: str | None = None
    halvings: int = 0
    said: str = ""
    is_too_large: bool = False

    @property
    def outcome(self) -> Outcome:
        """The end of a trial that is not run: what was planned of it stands in the place of what was measured."""
        metrics = {name: value for name, value in self.planned.items() if name.startswith("params/")}
        measurements = {name: value for name, value in self.planned.items() if name not in metrics}
        return Outcome(Status.SKIPPED, metrics, measurements, self.skipped)


class Beforehand:
    """Decides on runs before they start.

    Args:
        plan: the sweep's.
        maker: gives the folders of runs: one whose result is in the store has had its memory.
        launcher: the fields of ``hydra.launcher``.
        slots: how many runs share the device.
        predict: what a run will take, by its config; None where that is not known.
    """

    def __init__(
        self,
        plan: Plan,
        maker: RunMaker,
        launcher: Mapping[str, Any],
        slots: int,
        predict: Callable[[Config], Prediction | None],
    ) -> None:
        self._plan = plan
        self._maker = maker
        self._room: Callable[[Config], room.Room] = functools.partial(room.of_run, launcher=launcher, slots=slots)
        self._rooms: dict[tuple[str | None, int], room.Room] = {}
        self._predicted = predict
        self._points: dict[int, Decision] = {}
        asked = constraints.parse(plan.settings.constraints)
        known = [name for name in PLANNED if name != "plan/seconds" or is_time_known()]
        self._constraints = [constraint for constraint in asked if constraint.metric in known]
        self._on_oom = plan.settings.on_oom
        self._gpus = gpus_of(launcher, slots)

    def of(self, config: Config) -> Decision:
        """What is to be done with a run with this config."""
        predicted = self._predicted(config)
        if predicted is None:
            return Decision()
        decision = Decision(predicted.numbers)
        broken = [text for constraint in self._constraints if (text := _broken(constraint, config, predicted))]
        if broken:
            return dataclasses.replace(decision, skipped=f"{BY_PLAN}{' and '.join(broken)}")
        return self._within_memory(config, predicted, decision)

    def of_point(self, point: GridPoint) -> Decision:
        """What is to be done with the runs of a point without intervals; the plan is asked once."""
        if id(point) not in self._points:  # a grid's points live as long as the sweep
            self._points[id(point)] = self.of(point.config)
        return self._points[id(point)]

    def started(self, config: Config, decision: Decision) -> Config:
        """The config that a run starts with: its batches may be smaller."""
        config = inputs.with_ranks(config, self._maker.gpus)
        for _ in range(decision.halvings):
            smaller = halved(config.train)
            assert smaller is not None  # so often they were halved when it was decided
            config = dataclasses.replace(config, train=smaller)
        return config

    def starting(self, point: GridPoint) -> list[Config]:
        """The configs that the runs of a point without intervals start with."""
        return [self.started(config, self.of_point(point)) for config in point.configs]

    def _within_memory(self, config: Config, predicted: Prediction, decision: Decision) -> Decision:
        there, predicted = self.room(config), predicted.that_must_fit(signature.device_kind())
        if there.bytes is None or predicted.memory_bytes <= there.bytes or kept_outcome(self._maker.folder(config)):
            return decision
        needs = f"{BY_PLAN}it needs {units.size(predicted.memory_bytes)}, of {units.size(there.bytes)} {there.name}"
        if self._on_oom != HALVE:
            too_large = dataclasses.replace(decision, skipped=needs, is_too_large=True)
            return too_large if _is_sure(predicted, there.bytes) else decision
        halvings, least = self._halved(config, there.bytes)
        if _is_sure(least, there.bytes):
            smallest = f", and {units.size(least.memory_bytes)} with its smallest batches" if halvings else ""
            return dataclasses.replace(decision, skipped=needs + smallest, is_too_large=True)
        return dataclasses.replace(decision, halvings=halvings, said=needs)

    def _that_must_fit(self, config: Config) -> Prediction | None:
        predicted = self._predicted(config)
        return predicted and predicted.that_must_fit(signature.device_kind())

    def room(self, config: Config) -> room.Room:
        """The room of a run; the machine is asked once for all that have the same."""
        key = config.model.device_map, config.train.rank_count
        if key not in self._rooms:
            self._rooms[key] = self._room(config)
        return self._rooms[key]

    def _halved(self, config: Config, most: float) -> tuple[int, Prediction]:
        """How often the batches are halved until the run fits, or as long as it helps, and what it needs then."""
        halvings, predicted = 0, self._that_must_fit(config)
        assert predicted is not None  # it was before, and what is known of sizes does not depend on the batch
        config = inputs.with_ranks(config, self._maker.gpus)
        while predicted.memory_bytes > most and (smaller := halved(config.train)):
            config = dataclasses.replace(config, train=smaller)
            less = self._that_must_fit(config)
            if less is None or less.memory_bytes >= predicted.memory_bytes:
                break  # the gate needs the most, whatever the batch
            halvings, predicted = halvings + 1, less
        return halvings, predicted

    # -- a whole grid --------------------------------------------------------------------------------------------------

    def announce(self) -> Iterator[str]:
        """What the plan says of the points without intervals before anything starts, a line each.

        Raises:
            UsageError: when nothing is left to be run, or ``hydra.sweeper.on_oom=fail`` and a run does not fit.
        """
        self.require()
        decisions = {_name(point): self.of_point(point) for point in self._first() if not point.is_open}
        smaller = {name: one.said for name, one in decisions.items() if one.halvings}
        if skipped := _skipped(decisions):
            yield f"left out: {_listed(skipped, len(decisions))}"
        if smaller:
            yield f"started with smaller batches: {_listed(smaller, len(decisions))}"

    def require(self) -> None:
        """Refuses a sweep that could run nothing, or with ``hydra.sweeper.on_oom=fail`` one with too large a run.

        Raises:
            UsageError: see above; also for a budget that not even the smallest run keeps to.
        """
        points = self._first()
        decisions = {_name(point): self.of_point(point) for point in points if not point.is_open}
        if self._on_oom == FAIL:
            ends = {_name(point): self.of(point.at_high_ends) for point in points if point.is_open}
            self._refuse_too_large({**decisions, **ends})
        skipped = _skipped(decisions)
        self._refuse_none_left(skipped, len(points))
        self._refuse_budget([point for point in points if _name(point) not in skipped])

    def _first(self) -> Sequence[GridPoint]:
        """The points of the first stage that are to be run."""
        first = self._plan.search.stages[0]
        points = self._plan.points[first.name]
        return points if any(point.is_open for point in points) else points[: self._plan.at_most_of(first)]

    def _refuse_too_large(self, decisions: Mapping[str, Decision]) -> None:
        too_large = _skipped({name: one for name, one in decisions.items() if one.is_too_large})
        if too_large:
            raise UsageError(
                f"hydra.sweeper.on_oom=fail: every run must fit, but {_listed(too_large, len(decisions))}. Lower"
                " train.batch_size, or add train.gradient_checkpointing=true; skip leaves such runs out."
            )

    def _refuse_none_left(self, skipped: Mapping[str, str], points: int) -> None:
        if points and len(skipped) == points:
            raise UsageError(
                f"A sweep must have a run that may be run, but of these none may: {_listed(skipped, points)}."
                " Loosen hydra.sweeper.constraints, or lower what the runs need."
            )

    def _refuse_budget(self, points: Sequence[GridPoint]) -> None:
        """Refuses a budget that not even the smallest run keeps to; a result in the store costs nothing."""
        asked = Budget.of(self._plan.settings.budget)
        asked_for = [config for point in points for config in (point.config, point.at_high_ends)]
        configs = [self.started(config, self.of(config)) for config in asked_for]
        if asked is None or not is_time_known() or any(kept_outcome(self._maker.folder(config)) for config in configs):
            return
        predicted = [self._predicted(config) for config in configs]
        each = self._gpus if asked.unit == "gpu_hours" else self._maker.threads
        smallest = min((one.seconds / 3600 * each if one else 0.0 for one in predicted), default=0.0)
        if smallest > asked.hours:
            raise UsageError(
                f"hydra.sweeper.budget.{asked.unit} must be enough for one run, but is {amount(asked.hours)}, and the"
                f" smallest needs {amount(smallest)} by the plan. Raise it, or make the runs smaller."
            )


def _broken(constraint: Constraint, config: Config, predicted: Prediction) -> str | None:
    """How a plan breaks a constraint. EVA deals ranks out by the data, so its parameters are known once it has run."""
    if constraint.metric == "params/trainable" and config.lora.init == "eva":
        return None
    value = predicted.numbers[constraint.metric]
    if constraint.violation(predicted.numbers) <= 0:
        return None
    shown = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{constraint.metric} is {shown}, and must be {'<=' if constraint.is_upper else '>='} {constraint.bound:g}"


def _is_sure(predicted: Prediction, room_bytes: float) -> bool:
    return SURELY * predicted.memory_bytes > room_bytes


def _skipped(decisions: Mapping[str, Decision]) -> dict[str, str]:
    """Why points are left out, by their names."""
    return {name: one.skipped for name, one in decisions.items() if one.skipped}


def _name(point: GridPoint) -> str:
    return leaderboard.name(point.space.texts(point.params)) or "the one point"


def _listed(texts: Mapping[str, str], total: int) -> str:
    """Points with what is said of each, not too many."""
    shown = [f"{name} ({text})" for name, text in list(texts.items())[:_SHOWN]]
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return f"{len(texts)} of {total} points: {', '.join([*shown, *more])}"
