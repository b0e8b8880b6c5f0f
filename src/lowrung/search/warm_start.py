"""Warm start: the complete trials of an earlier study teach the sampler, and are no trials of this study.

The sampler is shown them as Optuna's `Study.add_trial` would add them: before all others, which are numbered after
them. They are not added. So numbers, folders, the leaderboard and the pruner know nothing of them, and a study that
goes on cannot add them twice.
"""

import copy
import dataclasses
import datetime
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from lowrung.errors import UsageError, did_you_mean
from lowrung.search import purpose as purposes
from lowrung.search import scope
from lowrung.search.scope import PartSampler
from lowrung.search.storage import Storage

NAME = "hydra.sweeper.warm_start"

LEARNS = ("tpe", "gp")
"""The samplers that learn from the trials of others. CMA-ES and NSGA-II learn from generations of their own alone."""

_SAME = ("axes", "spaces", "stages", "objectives", "constraints")
"""What two studies must share for the trials of one to teach the sampler of the other."""

_BESIDE = ("settings", "seeds", "over seeds", "content")
"""What may differ; it is said."""

_SHOWN = 12
"""So many names are listed."""


@dataclasses.dataclass(frozen=True)
class Earlier:
    """An earlier study.

    Attributes:
        name: the study's.
        trials: those that are complete, in the order of their ends.
        purpose: what it was made for; see `lowrung.search.study.Study`.
        inputs: where its models and data were from.
    """

    name: str
    trials: Sequence[FrozenTrial]
    purpose: Mapping[str, Any]
    inputs: Mapping[str, str]

    @classmethod
    def load(cls, name: str, storage: str, others: Sequence[str] = ()) -> "Earlier":
        """Reads a study.

        Args:
            name: the study's.
            storage: the address of a database that exists.
            others: names of studies elsewhere, for the message.

        Raises:
            UsageError: when the database has no such study, or that has no complete trial.
        """
        opened = Storage(storage)
        names = optuna.get_all_study_names(opened)
        if name not in names:
            raise UsageError(absent(name, [*names, *others]))
        study = optuna.load_study(study_name=name, storage=opened)
        complete = study.get_trials(states=[TrialState.COMPLETE])
        if not complete:
            raise UsageError(f"{NAME}={name} must have a complete trial to learn from, but has none. Leave it out.")
        facts = study.user_attrs
        return cls(name, sorted(complete, key=_end), facts.get("purpose", {}), facts.get("inputs", {}))

    def problems(self, purpose: Mapping[str, Any]) -> list[str]:
        """Why its trials cannot teach the sampler of a study of this purpose."""
        before, now = ({kind: what.get(kind) or {} for kind in _SAME} for what in (self.purpose, purpose))
        if not (changes := list(purposes.changes(before, now, {}, {}))):
            return []
        return [
            f"{NAME} must be a study of the same space, objectives and constraints, but of {self.name}"
            f" {'; '.join(changes[:_SHOWN])}. Name another one, or leave it out."
        ]

    def note(self, purpose: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
        """What its trials are to this study, for the user."""
        before, now = ({kind: what.get(kind) or {} for kind in _BESIDE} for what in (self.purpose, purpose))
        changes = list(purposes.changes(before, now, self.inputs, inputs))
        but = f", although {'; '.join(changes[:_SHOWN])}" if changes else ""
        return f"{len(self.trials)} complete trials of {self.name} teach the sampler{but}"

    def until(self, moment: str) -> list[FrozenTrial]:
        """Those that had ended at a moment."""
        return [trial for trial in self.trials if _end(trial) <= datetime.datetime.fromisoformat(moment)]

    @property
    def last(self) -> str:
        """When the last one ended."""
        return _end(self.trials[-1]).isoformat()


def absent(name: str, names: Sequence[str]) -> str:
    """The problem of a study that does not exist, with those that do."""
    listed = sorted(dict.fromkeys(names))
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    there = f"there are {', '.join(listed[:_SHOWN])}{more}" if listed else "there is none"
    return f"{NAME} must be the name of an earlier study, but is {name!r}: {there}.{did_you_mean(name, listed)}"


def sampler_problems(sampler: Mapping[str, Any], *, draws: bool) -> Iterator[str]:
    """Why a sampler has nothing to learn.

    Args:
        sampler: as `samplers.make` takes it.
        draws: whether there is an interval.
    """
    if sampler["name"] not in LEARNS:
        yield (
            f"{NAME} must have a sampler that learns from other studies' trials ({', '.join(LEARNS)}), but"
            f" hydra/sweeper/sampler is {sampler['name']}. Choose one of them, or leave it out."
        )
    elif not draws:
        yield (
            f"{NAME} must have an interval whose values are drawn, but all that is swept is an exact grid. Leave it"
            " out; runs that are in the store are not trained again."
        )


def _end(trial: FrozenTrial) -> datetime.datetime:
    return trial.datetime_complete or datetime.datetime.min


class TaughtSampler(PartSampler):
    """A sampler that learns from trials of an earlier study too.

    Args:
        sampler: the one that draws.
        earlier: the trials.
    """

    def __init__(self, sampler: BaseSampler, earlier: Sequence[FrozenTrial]) -> None:
        super().__init__(sampler, keep=lambda _: True)
        self._earlier = [numbered(trial, number) for number, trial in enumerate(earlier)]

    def _shown(self, study: optuna.Study) -> optuna.Study:
        def shows(own: list[FrozenTrial], states: Container[TrialState] | None) -> list[FrozenTrial]:
            earlier = self._earlier if states is None or TrialState.COMPLETE in states else []
            return [*earlier, *map(self._as_shown, own)]

        return scope.shown(study, shows)

    def _as_shown(self, trial: FrozenTrial) -> FrozenTrial:
        return numbered(trial, trial.number + len(self._earlier))


def numbered(trial: FrozenTrial, number: int) -> FrozenTrial:
    """A trial under another number."""
    made = copy.copy(trial)
    made.number = number
    return made
