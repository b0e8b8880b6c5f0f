"""What could not be read of a study, gathered: many trials with the same fault make one sentence."""

import dataclasses
from collections.abc import Sequence

from lowrung.report.trial_names import trials


@dataclasses.dataclass
class Doubts:
    """Doubts about a study, in the order in which they came up."""

    _by_fault: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    def add(self, fault: str, trial: int | None = None) -> None:
        """Notes a fault, a sentence without its point; the same fault of other trials is said once."""
        known = self._by_fault.setdefault(fault.strip().rstrip("."), [])
        if trial is not None and trial not in known:
            known.append(trial)

    @property
    def sentences(self) -> Sequence[str]:
        """Each fault, with the trials that have it."""
        return [
            f"{fault} ({trials(sorted(numbers))})." if numbers else f"{fault}."
            for fault, numbers in self._by_fault.items()
        ]
