"""What happens to the runs of a sweep, as its queue says it."""

import dataclasses
from collections.abc import Mapping

from lowrung.store.outcome import Outcome
from lowrung.sweeps.runs import Run


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A run reported metrics at a step."""

    run: Run
    step: int
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run has its outcome.

    Attributes:
        run: the run.
        outcome: how it ended.
        is_reused: whether it was not trained for this trial.
        is_tracked: whether its process has recorded all of it in the tracker, its end too.
    """

    run: Run
    outcome: Outcome
    is_reused: bool = False
    is_tracked: bool = False


@dataclasses.dataclass(frozen=True)
class Stopped:
    """A run was stopped together with the sweep. The sweep's next start goes on from its checkpoint."""

    run: Run


QueueEvent = Evaluated | Finished | Stopped
