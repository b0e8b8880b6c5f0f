"""A stage of a sweep, as it was asked for."""

import dataclasses

Start = str | int

BEST, TIES = "best", "ties"
"""Words for where a stage starts: at the best trial of another stage, or at all that tie with it."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a sweep.

    Attributes:
        spaces: the overrides of each of its spaces. A later stage's come after those of what it starts from.
        name: the stage's; empty where the sweep has no stages.
        of: the name of the stage that it starts from; empty for the first one.
        start: what it starts from: `BEST`, `TIES`, or a number of the best trials.
        n_trials: trials in total; None is every point of its grid.
        prune: whether the sweep's pruner ends its trials early.
    """

    spaces: tuple[tuple[str, ...], ...]
    name: str = ""
    of: str = ""
    start: Start = BEST
    n_trials: int | None = None
    prune: bool = True

    @property
    def n_trials_setting(self) -> str:
        """Where ``n_trials`` is set."""
        return f"n_trials of stage {self.name!r}" if self.name else "hydra.sweeper.n_trials"
