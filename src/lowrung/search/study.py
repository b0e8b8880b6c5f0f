"""The study: Optuna's record of what was tried, in SQLite. One coordinator is its only client."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from lowrung.errors import UsageError
from lowrung.outcome import Outcome, Status
from lowrung.search.space import Params, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

STATES = {Status.COMPLETE: TrialState.COMPLETE, Status.PRUNED: TrialState.PRUNED}
"""Optuna's state for a status; any other is a failure to it."""


class Study:
    """Asks for trials and tells their ends; all of lowrung's own facts on a trial are its user attributes.

    Args:
        name: the study's.
        database: SQLite file; made when missing.
        space: the search space.
        objectives: metrics with ``minimize`` or ``maximize``.
        seed: of the sampler.

    Raises:
        UsageError: when the study exists and was made for another search space or other objectives.
    """

    def __init__(self, name: str, *, database: Path, space: Space, objectives: Mapping[str, str], seed: int) -> None:
        self._distributions = space.distributions()
        self._objectives = dict(objectives)
        self._seed = seed
        database.parent.mkdir(parents=True, exist_ok=True)
        self._study = optuna.create_study(
            study_name=name,
            storage=f"sqlite:///{database}",
            directions=[StudyDirection[direction.upper()] for direction in objectives.values()],
            load_if_exists=True,
        )
        axes = {key: distribution_to_json(axis) for key, axis in self._distributions.items()}
        self._hold_to({"axes": axes, "objectives": self._objectives})

    def _hold_to(self, purpose: dict[str, Any]) -> None:
        """Optuna itself would go on with the old objectives, and fail at the first trial of a changed axis."""
        made_for = self.facts.get("purpose")
        if made_for is None:
            self.note("purpose", purpose)
        elif made_for != purpose:
            raise UsageError(
                f"study must name a new study or this one, but {self.name!r} was made for another search"
                " space or other objectives. Choose another name; runs that are in the store are not trained again."
            )

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

    def ask(self, fixed: Params) -> Trial:
        """A new trial at the fixed values, the rest drawn by TPE (arXiv:2304.11127).

        The sampler's seed derives from the study's and the trial's number, so that a search that goes on after an
        interruption does not draw the same points again.
        """
        text = f"{self._seed}/{len(self.trials)}".encode()
        tpe = TPESampler(seed=int.from_bytes(hashlib.sha256(text).digest()[:4]), constant_liar=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # experimental since Optuna 2.4
            # Not enqueue_trial: a coordinator killed before it asks would leave a point in the queue.
            self._study.sampler = PartialFixedSampler(fixed, tpe)
        return self._study.ask(fixed_distributions=self._distributions)

    def interrupted(self) -> list[Trial]:
        """Trials that were running when their coordinator ended; they go on under their numbers.

        One whose coordinator was killed while it asked lacks values, and has failed.
        """
        whole = []
        for trial in self.trials:
            if trial.state is TrialState.RUNNING:
                if trial.params.keys() == self._distributions.keys():
                    whole.append(Trial(self._study, trial._trial_id))
                else:
                    self._study.tell(trial.number, state=TrialState.FAIL)
        return whole

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Ends a trial. Every trial that was asked for is told exactly once, here."""
        trial.set_user_attr("status", str(outcome.status))
        if outcome.cause:
            trial.set_user_attr("cause", outcome.cause)
        state = STATES.get(outcome.status, TrialState.FAIL)
        if not outcome.metrics.keys() >= self._objectives.keys():  # a perplexity that is not finite, say
            state = TrialState.FAIL if state is TrialState.COMPLETE else state
        values = [outcome.metrics[name] for name in self._objectives] if state is TrialState.COMPLETE else None
        self._study.tell(trial, values, state=state)
