"""The study: Optuna's record of what was tried, in SQLite. One coordinator is its only client."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.samplers import PartialFixedSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from lowrung.errors import UsageError
from lowrung.search import pruning, samplers, scope
from lowrung.search import purpose as purposes
from lowrung.search.axes import Params
from lowrung.search.constraints import Constraint, parse
from lowrung.search.judge import Judge
from lowrung.search.lease import Lease
from lowrung.search.mirror import Mirror
from lowrung.search.space import Space
from lowrung.search.storage import Storage
from lowrung.search.warm_start import Earlier, TaughtSampler
from lowrung.store.outcome import Outcome, Status

optuna.logging.set_verbosity(optuna.logging.WARNING)

STATES = {
    Status.COMPLETE: TrialState.COMPLETE,
    Status.PRUNED: TrialState.PRUNED,
    Status.SKIPPED: TrialState.PRUNED,  # TPE learns from pruned trials that break a constraint, and from no failed one
}
"""Optuna's state for a status; any other is a failure to it."""

RUN = "run/"
"""What begins the user attribute of a trial's run; its seed follows."""

PLANNED = "planned"
"""The study's fact that holds its trials in total, and the runs of each, as far as they are known."""

TAKEN = "taken_over"
"""The study's fact that holds by stage the numbers of earlier stages' trials that count for it too (``shared``), and
of its own that its last start left out (``left_out``), since it starts from other trials now."""

CLOCK = "utc_offset"
"""The study's fact that holds its coordinator's clock, in seconds east of UTC, by the number of the first trial that it
holds for: Optuna writes local times without their zone."""

_TAUGHT = "warm start"
"""The fact that names the studies which taught the sampler, each with the end of the last trial that did."""

_SHOWN = 12
"""So many changes of a study are listed."""


def _violation(constraint: Constraint, outcome: Outcome) -> float:
    """By how much a trial breaks a constraint; one that was run has kept to what is planned."""
    if constraint.is_of_plan and outcome.status is not Status.SKIPPED:
        return 0.0
    return constraint.violation(outcome.numbers)


class Study:
    """Asks Optuna for trials and tells it how they ended. What lowrung notes of a trial are Optuna's user attributes.

    Args:
        name: the study's.
        storage: the database's address; a SQLite file is made when missing.
        space: the search space; the first one where there are several.
        objectives: metrics with ``minimize`` or ``maximize``.
        constraints: metrics with bounds; see `lowrung.search.constraints`.
        seed: of the sampler.
        sampler: draws the intervals' values; see `lowrung.search.samplers`. Another one may go on with a study.
        pruner: ends bad trials early; see `lowrung.search.pruning`. Another one may go on with a study.
        unpruned: the names of stages whose trials it leaves alone.
        purpose: texts by kind and name that trials share where they can be compared: space, goal, settings and more.
        inputs: texts by name that say why the kind ``content`` differs.
        earlier: a study whose trials teach the sampler; see `lowrung.search.warm_start`.
        lock: a file that this process has locked, which makes it the study's one coordinator until `close`; None for a
            process that is alone by other means.

    Attributes:
        judge: takes what trials report, and says which of them to prune.

    Raises:
        UsageError: when the database does not open, or the study was made for another purpose.
        StudyTaken: when another process is the study's coordinator.
    """

    def __init__(
        self,
        name: str,
        *,
        storage: str,
        space: Space,
        objectives: Mapping[str, str],
        constraints: Mapping[str, str] = MappingProxyType({}),
        seed: int,
        sampler: Mapping[str, Any] = samplers.DEFAULT,
        pruner: Mapping[str, Any] = pruning.DEFAULT,
        unpruned: Collection[str] = (),
        purpose: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        inputs: Mapping[str, str] = MappingProxyType({}),
        earlier: Earlier | None = None,
        lock: Path | None = None,
    ) -> None:
        self._space = space
        self._objectives = dict(objectives)
        self._seed = seed
        self._sampler = sampler
        self._constraints = parse(constraints)
        database = Storage(storage)
        study_id = optuna.create_study(
            study_name=name,
            storage=database,
            directions=[StudyDirection[direction.upper()] for direction in objectives.values()],
            load_if_exists=True,
        )._study_id
        self._lease = None if lock is None else Lease(Storage(storage), study_id, lock)
        goal = {"objectives": self._objectives, "constraints": dict(constraints)}
        try:
            self._mirror = Mirror(database, study_id)
            self._study = optuna.load_study(study_name=name, storage=self._mirror)
            self.judge = Judge(self._study, pruner, self._objectives, self._require_sole, unpruned)
            self._asked = len(self.trials)
            self._clocks = dict(self.facts.get(CLOCK, {}))
            self._hold_to({**space.described(), **goal, **purpose}, inputs)
            self._name_objectives()
            self._earlier = self._taught_by(earlier)
        except BaseException:
            self.close()
            raise

    def _taught_by(self, earlier: Earlier | None) -> list[FrozenTrial]:
        """The trials that teach the sampler: those that had ended at this study's first start, also when it goes on.

        The earlier study may go on too, and a search in parts draws as one in one.
        """
        if earlier is None:
            return []
        known = self.facts.get(_TAUGHT, {})
        if earlier.name not in known:
            known = {**known, earlier.name: earlier.last}
            self.note(_TAUGHT, known)
        return earlier.until(known[earlier.name])

    @staticmethod
    def delete(name: str, storage: str, lock: Path) -> None:
        """Deletes the study of this name, if there is one.

        Raises:
            StudyTaken: when another process is its coordinator.
        """
        opened = Storage(storage)
        try:
            study_id = opened.get_study_id_from_name(name)
        except KeyError:
            return
        Lease(Storage(storage), study_id, lock).release()
        optuna.delete_study(study_name=name, storage=opened)

    def close(self) -> None:
        """Gives the study up to other processes."""
        if self._lease is not None:
            self._lease.release()

    def _require_sole(self) -> None:
        if self._lease is not None:
            self._lease.require()

    def _hold_to(self, purpose: Mapping[str, Mapping[str, str]], inputs: Mapping[str, str]) -> None:
        """Refuses another search.

        Optuna would keep the old objectives, and fail at a changed axis's first trial. Trials of other settings would
        feed the sampler and the pruner, although no result of them counts.
        """
        made_for = self.facts.get("purpose")
        if made_for is None:
            self.note("purpose", purpose)
            self.note("inputs", dict(inputs))
        elif made_for != purpose:
            changes = list(purposes.changes(made_for, purpose, self.facts.get("inputs", {}), inputs))
            shown = [*changes[:_SHOWN], *([f"and {len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else [])]
            raise UsageError(
                f"study must name a new study or one of the same search, but {self.name!r} was made for another:"
                f" {'; '.join(shown)}. Choose another name, or add hydra.sweeper.fresh=true; runs"
                " that are in the store are not trained again."
            )

    def _name_objectives(self) -> None:
        """Lets Optuna's own tools name the objectives, which are "Objective 0" to them otherwise."""
        names = list(self._objectives)
        if self._study.metric_names != names:
            self._study.set_metric_names(names)

    @property
    def name(self) -> str:
        """The study's."""
        return self._study.study_name

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self._study.get_trials(deepcopy=False)

    @property
    def facts(self) -> dict[str, Any]:
        """What lowrung wrote down on the study."""
        return self._study.user_attrs

    def note(self, name: str, value: Any) -> None:
        """Writes a fact down on the study."""
        self._study.set_user_attr(name, value)

    def ask(self, fixed: Params, *, space: Space | None = None, stage: str = "") -> Trial:
        """A new trial at the fixed values, the rest drawn by the sampler.

        Args:
            fixed: values by key.
            space: the trial's, where the study has several: the sampler learns from trials that search the same.
            stage: the trial's.

        Raises:
            UsageError: when a package that the sampler needs is missing.
        """
        self._require_sole()
        distributions = (space or self._space).distributions()
        sampler = samplers.make(self._sampler, seed=self._seed, trial_number=self._asked)
        keep = scope.alike(stage, distributions)
        if self._earlier:
            sampler = TaughtSampler(sampler, [one for one in self._earlier if space is None or keep(one)])
        if space is not None:
            sampler = scope.PartSampler(sampler, keep)
        self._note_clock()
        self._asked += 1
        # Not enqueue_trial: a coordinator killed before it asks would leave a point in the queue.
        self._study.sampler = PartialFixedSampler(fixed, sampler)
        with self._mirror.together():
            trial = self._study.ask(fixed_distributions=distributions)
            if space is not None:
                trial.set_user_attr(scope.STAGE, stage)
        self.judge.expect(trial)
        return trial

    def _note_clock(self) -> None:
        """Writes down where the clock of this process stands, when it has changed: elsewhere, or with the season."""
        offset = time.localtime().tm_gmtoff
        if list(self._clocks.values())[-1:] != [offset]:
            self._clocks[str(self._asked)] = offset
            self.note(CLOCK, self._clocks)

    def note_run(self, trial: Trial, seed: int, **facts: Any) -> dict[str, Any]:
        """Writes facts down on one of a trial's runs, beside those that are known of it; returns them all."""
        known = {**self.runs(trial).get(seed, {}), **facts}
        trial.set_user_attr(f"{RUN}{seed}", known)
        return known

    def runs(self, trial: Trial | FrozenTrial) -> dict[int, dict[str, Any]]:
        """What was written down on a trial's runs, by seed."""
        facts = trial.user_attrs
        return {int(name.removeprefix(RUN)): known for name, known in facts.items() if name.startswith(RUN)}

    def has_begun(self, trial: Trial | FrozenTrial) -> bool:
        """Whether one of a trial's runs has: its signature is noted then, when all that is decided before was noted."""
        return any("signature" in facts for facts in self.runs(trial).values())

    def is_reused(self, trial: Trial | FrozenTrial) -> bool:
        """Whether all of a trial's results were there before it was begun, as it was noted then."""
        known = self.runs(trial).values()
        return bool(known) and all(run.get("reused", False) for run in known)

    def interrupted(self) -> list[Trial]:
        """Trials that were running when their coordinator ended; they go on under their numbers.

        A trial whose coordinator was killed while it asked for the trial lacks values, and ends as failed.
        """
        whole = []
        for trial in self.trials:
            if trial.state is TrialState.RUNNING:
                adopted = Trial(self._study, trial._trial_id)
                if trial.params.keys() == set(self._space.keys) or scope.STAGE in trial.user_attrs:
                    whole.append(adopted)
                else:
                    self.abandon(adopted)
        return whole

    def stage_of(self, trial: Trial | FrozenTrial) -> str:
        """The name of a trial's stage; empty where the sweep has none."""
        return scope.stage_of(trial)

    def abandon(self, trial: Trial) -> None:
        """Ends a trial that nothing can be done with as failed."""
        self._require_sole()
        self._study.tell(trial, state=TrialState.FAIL)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Ends a trial. Every trial that is asked for is told exactly once, here."""
        self._require_sole()
        self.judge.forget(trial)
        with self._mirror.together():
            trial.set_user_attr("status", str(outcome.status))
            if outcome.cause:
                trial.set_user_attr("cause", outcome.cause)
            for constraint in self._constraints:
                trial.set_constraint(str(constraint), _violation(constraint, outcome))
            state = STATES.get(outcome.status, TrialState.FAIL)
            if not outcome.metrics.keys() >= self._objectives.keys():  # a perplexity that is not finite, say
                state = TrialState.FAIL if state is TrialState.COMPLETE else state
            values = [outcome.metrics[name] for name in self._objectives] if state is TrialState.COMPLETE else None
            self._study.tell(trial, values, state=state)
