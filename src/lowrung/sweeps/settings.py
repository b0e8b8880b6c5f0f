"""The fields of ``hydra.sweeper``, and what may be wrong with them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lowrung.config import limits
from lowrung.config.sweeper_schema import SweeperConf
from lowrung.engine import assumed, durations
from lowrung.search import objectives
from lowrung.search.pruning import Schedule
from lowrung.search.space import Space
from lowrung.store import addresses
from lowrung.store.outcome import OVER_SEEDS
from lowrung.sweeps import budget

DATABASES = ("sqlite", "postgresql", "mysql")
"""What Optuna keeps studies in; each may be followed by a driver, as in ``postgresql+psycopg``."""


class Settings(SweeperConf):
    """The settings of a sweep, with defaults in the place of what is null, and what may be wrong with them."""

    @property
    def goal(self) -> dict[str, Mapping[str, str]]:
        """Objectives and constraints; a study has one goal."""
        return {"objectives": self.objectives, "constraints": self.constraints}

    @property
    def measured(self) -> dict[str, Iterable[str]]:
        """Settings that name metrics which every run must have, each with the names."""
        return {**self.goal, "prefer": self.prefer}

    @property
    def directions(self) -> dict[str, str]:
        """The metrics of the goal, each with ``minimize`` or ``maximize``; a limit from above asks for less."""
        from lowrung.search import constraints

        kept = {one.metric: "minimize" if one.is_upper else "maximize" for one in constraints.parse(self.constraints)}
        return {**kept, **self.objectives}

    @property
    def n_values(self) -> int | None:
        """The number of values that replace each interval (``sampler=grid``); None where intervals are searched."""
        return self.sampler.get("n_values") if isinstance(self.sampler, Mapping) else None

    def problems(self) -> list[str]:
        """What is wrong with the fields, whatever is searched."""
        from lowrung.search import constraints

        return [
            *self._group_problems(),
            *objectives.objective_problems(self.objectives),
            *constraints.problems(self.constraints),
            *self._seed_problems(),
            *objectives.preference_problems(self.prefer),
            *self._limit_problems(),
            *budget.problems(self.budget),
            *self.plan_problems(),
            *(addresses.database_problems("hydra.sweeper.storage", self.storage, DATABASES) if self.storage else ()),
        ]

    def plan_problems(self) -> Iterator[str]:
        """What is wrong with the machine that a dry run is for."""
        return assumed.problems(self.plan_for, is_dry_run=self.dry_run)

    def _group_problems(self) -> Iterator[str]:
        for name, value in (("sampler", self.sampler), ("pruner", self.pruner)):
            if not isinstance(value, Mapping):
                yield (
                    f"hydra/sweeper/{name} must be chosen as a group, but hydra.sweeper.{name} is {value!r}. Write"
                    f" hydra/sweeper/{name}={value or 'NAME'}."
                )

    def _seed_problems(self) -> Iterator[str]:
        """What is wrong with the value over seeds: the worst of a metric has one direction."""
        yield from limits.one_of("hydra.sweeper.over_seeds", self.over_seeds, OVER_SEEDS)
        if self.over_seeds != "worst" or objectives.objective_problems(self.objectives):
            return
        for name, direction in self.objectives.items():
            bound = str(self.constraints.get(name, ""))[:2] if isinstance(self.constraints, Mapping) else ""
            if bound == {"minimize": ">=", "maximize": "<="}[direction]:
                yield (
                    f"hydra.sweeper.over_seeds=worst needs one direction for each metric, but {name} is to"
                    f" {direction} and is limited by {bound}. Take mean or median."
                )

    def _limit_problems(self) -> Iterator[str]:
        yield from limits.one_of("hydra.sweeper.on_oom", str(self.on_oom), ("skip", "halve", "fail"))
        for name, value, least in (("retries", self.retries, 0), ("max_failures", self.max_failures, 1)):
            if value < least:
                yield f"hydra.sweeper.{name} must be at least {least}, but is {value}."
        if self.difference is not None and not (0 < self.difference < math.inf):
            yield (
                f"hydra.sweeper.difference must be a number above 0, but is {self.difference}. Set the smallest"
                " difference of the objective that matters to you, or null."
            )
        if self.timeout is not None and durations.seconds(self.timeout) is None:
            yield (
                "hydra.sweeper.timeout must be seconds or a duration in h, m and s, and above 0, but is"
                f" {self.timeout!r}. For an hour and a half, write hydra.sweeper.timeout=1h30m; null is no limit."
            )

    def search_problems(self, spaces: Sequence[Space], schedules: Sequence[Schedule]) -> list[str]:
        """What the sampler and the pruner cannot do with these spaces and these schedules."""
        from lowrung.search import pruning, samplers

        seeds = max(len(space.seeds) or 1 for space in spaces)
        searched = next((space for space in spaces if space.intervals), spaces[0])
        return [
            *samplers.problems(self.sampler, self.objectives, searched),
            *pruning.problems(self.pruner, self.objectives, schedules, seeds=seeds),
        ]
