"""A part of a study: what a sampler or a pruner is shown where not all trials can be compared."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

Keep = Callable[[FrozenTrial], bool]
"""Which trials belong to the part."""


Shows = Callable[[list[FrozenTrial], Container[TrialState] | None], list[FrozenTrial]]
"""What is shown of a study's own trials, those of certain states or of all."""


class ShownStorage:
    """A storage that shows other trials than it has, to all that read them: Hyperband makes studies of its own from it.

    Args:
        storage: the one that has them.
        shows: what is shown.
    """

    def __init__(self, storage: Any, shows: Shows) -> None:
        self._storage = storage
        self._shows = shows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See Optuna's `BaseStorage`."""
        return self._shows(self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states), states)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """See Optuna's `BaseStorage`."""
        complete = self.get_all_trials(study_id, deepcopy=False, states=[TrialState.COMPLETE])
        if not complete:
            raise ValueError("No trials are completed yet.")
        (direction,) = self._storage.get_study_directions(study_id)
        sign = -1 if direction is StudyDirection.MAXIMIZE else 1
        return min(complete, key=lambda trial: sign * (trial.value or 0.0))


def shown(study: optuna.Study, shows: Shows) -> optuna.Study:
    """The study with what is shown of it, as Optuna's Hyperband makes one for each bracket."""
    storage: Any = ShownStorage(study._storage, shows)
    return optuna.Study(study.study_name, storage, sampler=study.sampler, pruner=study.pruner)


def part(study: optuna.Study, keep: Keep) -> optuna.Study:
    """The study with the trials that are kept alone."""
    return shown(study, lambda trials, _: [trial for trial in trials if keep(trial)])


class PartSampler(BaseSampler):
    """A sampler that is shown a part of the study.

    Args:
        sampler: the one that draws.
        keep: which trials it is shown.
    """

    def __init__(self, sampler: BaseSampler, keep: Keep) -> None:
        self._sampler = sampler
        self._keep = keep

    def _shown(self, study: optuna.Study) -> optuna.Study:
        return part(study, self._keep)

    def _as_shown(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial that is drawn for, as the study that is shown has it."""
        return trial

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna's `BaseSampler`, as for all that follow."""
        return self._sampler.infer_relative_search_space(self._shown(study), self._as_shown(trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draws what is drawn jointly."""
        return self._sampler.sample_relative(self._shown(study), self._as_shown(trial), search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draws what is drawn alone."""
        shown, drawn_for = self._shown(study), self._as_shown(trial)
        return self._sampler.sample_independent(shown, drawn_for, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Is called before a trial's values are drawn."""
        self._sampler.before_trial(self._shown(study), self._as_shown(trial))

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Is called when a trial is told."""
        self._sampler.after_trial(self._shown(study), self._as_shown(trial), state, values)


def alike(stage: str, distributions: Mapping[str, BaseDistribution]) -> Keep:
    """Trials of a stage that search the same, whatever is fixed: what a sampler may learn from, as in a grid."""
    return lambda trial: stage_of(trial) == stage and trial.distributions == distributions


def of_stage(stage: str) -> Keep:
    """Trials of a stage: what a pruner may compare."""
    return lambda trial: stage_of(trial) == stage


STAGE = "stage"
"""The user attribute with a trial's stage."""


def stage_of(trial: FrozenTrial | optuna.Trial) -> str:
    """The name of a trial's stage; empty where the sweep has none."""
    return str(trial.user_attrs.get(STAGE, ""))
