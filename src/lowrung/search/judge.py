"""The judge of a study: it takes what trials report, and asks the pruner whether they go on."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from lowrung.search import pruning, scope

_PRUNED = "is_to_be_pruned"
"""The user attribute of a trial that was found to be no better than others."""

_UNIT = "unit"
"""The fact that holds the tokens of the study's first evaluation."""


@dataclasses.dataclass
class _Reported:
    """What a pending trial has reported: a copy, since a query of the database takes as long as a report."""

    steps: set[int] = dataclasses.field(default_factory=set)
    is_to_be_pruned: bool = False


class Judge:
    """Judges trials by what they report while they run.

    Nothing is pruned where there are several objectives, or where the objective is not among the metrics or is not
    finite.

    Args:
        study: Optuna's.
        pruner: its settings; see `lowrung.search.pruning`.
        objectives: metrics with ``minimize`` or ``maximize``.
        require_sole: raises where another process is the study's coordinator; called before anything is written.
        unpruned: the names of stages whose trials are trained to their ends.
    """

    def __init__(
        self,
        study: optuna.Study,
        pruner: Mapping[str, Any],
        objectives: Mapping[str, str],
        require_sole: Callable[[], None],
        unpruned: Collection[str] = (),
    ) -> None:
        self._study = study
        self._pruner = pruner
        self._objective, *self._others = objectives
        self._require_sole = require_sole
        self._unpruned = unpruned
        self._reported: dict[int, _Reported] = {}
        self._unit_tokens: int | None = None  # a copy: the facts are a query, and each report needs them

    def expect(self, trial: Trial) -> None:
        """A trial that was just asked for has reported nothing."""
        self._reported[trial.number] = _Reported()

    def forget(self, trial: Trial) -> None:
        """A trial has ended."""
        self._reported.pop(trial.number, None)

    def report(self, trial: Trial, tokens: int, metrics: Mapping[str, float]) -> bool:
        """Takes an evaluation of a trial that still trains; returns whether to prune the trial.

        A run that goes on from a checkpoint repeats its reports: the first value and the first answer stay.

        Args:
            trial: the one that was evaluated.
            tokens: trained on so far; an evaluation before training (0) is not used.
            metrics: of the evaluation.
        """
        if pruning.is_by_seed(self._pruner) or tokens < 1 or not self._is_comparable(metrics):
            return False
        step = pruning.units(tokens, self._unit(tokens))
        return step >= 1 and self._judge(trial, step, metrics)

    def report_seed(self, trial: Trial, position: int, metrics: Mapping[str, float]) -> bool:
        """Takes the result of one of a trial's seeds; returns whether to prune the trial, so that no other seed is run.

        Args:
            trial: the seed's.
            position: of the seed among the study's, from 1: the pruner's step.
            metrics: of the run that has ended.
        """
        if not pruning.is_by_seed(self._pruner) or not self._is_comparable(metrics):
            return False
        return self._judge(trial, position, metrics)

    def _is_comparable(self, metrics: Mapping[str, float]) -> bool:
        return not self._others and math.isfinite(metrics.get(self._objective, math.nan))

    def _judge(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> bool:
        """Keeps the first value of a step, and asks the pruner; later ones change nothing."""
        reported = self._reported_by(trial)
        if step not in reported.steps:
            reported.steps.add(step)
            self._require_sole()
            trial.report(metrics[self._objective], step)
            if self._may_prune(trial) and self._is_to_be_pruned(trial):
                trial.set_user_attr(_PRUNED, True)
                reported.is_to_be_pruned = True
        return reported.is_to_be_pruned

    def _may_prune(self, trial: Trial) -> bool:
        return self._pruner["name"] != "none" and scope.stage_of(trial) not in self._unpruned

    def _reported_by(self, trial: Trial) -> _Reported:
        """What a trial has reported; the database knows it of a trial that an earlier coordinator asked for."""
        if trial.number not in self._reported:
            known = self._study.get_trials(deepcopy=False)[trial.number]
            self._reported[trial.number] = _Reported(set(known.intermediate_values), _PRUNED in known.user_attrs)
        return self._reported[trial.number]

    def _is_to_be_pruned(self, trial: Trial) -> bool:
        # Not trial.should_prune(): with Hyperband as the study's own pruner, Optuna would show the sampler only
        # the trials of one bracket, of which a new trial's is not known before the first report.
        stage = scope.stage_of(trial)
        pruner = pruning.make(self._pruner, max_resource=self._max_resource(stage))
        shown = scope.part(self._study, scope.of_stage(stage)) if stage else self._study
        return pruner.prune(shown, self._study.get_trials(deepcopy=False)[trial.number])

    def _unit(self, tokens: int) -> int:
        """Tokens in a unit of the pruner's resource: those of the first evaluation that was reported to the study."""
        if self._unit_tokens is None:
            if _UNIT not in self._study.user_attrs:
                self._study.set_user_attr(_UNIT, tokens)
            self._unit_tokens = int(self._study.user_attrs[_UNIT])
        return self._unit_tokens

    def _max_resource(self, stage: str) -> int | None:
        """Units of the stage's first completed run. Those of a later one could move a trial to another bracket."""
        ended = [
            (trial.datetime_complete, trial.number, trial.last_step)
            for trial in self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
            if trial.datetime_complete is not None and trial.last_step is not None and scope.stage_of(trial) == stage
        ]
        return min(ended)[2] if ended else None
