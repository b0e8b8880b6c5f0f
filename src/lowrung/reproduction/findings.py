"""What is found of a run that was made again."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing that is other than it was.

    Attributes:
        what: in words.
        then: when the run was made.
        now: here.
        counts: whether it can change a result. A commit alone, or MLflow's version, cannot.
    """

    what: str
    then: str
    now: str
    counts: bool = True

    def __str__(self) -> str:
        """In one line."""
        return f"{self.what}: {self.then}, now {self.now}"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One result that is other than it was.

    Attributes:
        what: in words.
        recorded: its value in the recorded run.
        again: its value in the new one.
        apart: the absolute difference of the two; infinite where one is missing, and None where it has no size.
    """

    what: str
    recorded: str
    again: str
    apart: float | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of result, compared.

    Attributes:
        name: ``metrics``, say.
        compared: how many of them were compared.
        differences: those that differ.
        notes: what could not be compared, and what else is to be known.
    """

    name: str
    compared: int
    differences: Sequence[Difference] = ()
    notes: Sequence[str] = ()
