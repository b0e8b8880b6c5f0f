"""How a run ended: the record that a run leaves behind, and that everyone else trusts."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowrung import atomic
from lowrung.errors import StoreError


class Status(enum.StrEnum):
    """How a run ended. A closed set: every run ends in exactly one of these."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OOM = "oom"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_kept(self) -> bool:
        """Whether a rerun of the same study keeps the result rather than running it again."""
        return self in (Status.COMPLETE, Status.PRUNED, Status.DIVERGED)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is known of a run after its end.

    Attributes:
        status: how it ended.
        metrics: exact results, equal on every repeat (losses, counts, the gate), by MLflow name.
        measurements: what varies with the machine (seconds, bytes, tokens per second), by MLflow name.
        cause: for anything but ``complete``, one line that says why.
        facts: what else describes the result and is not a number (warnings, the ranks as trained).
    """

    status: Status
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measurements: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cause: str | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """Metrics and measurements together, as they are tracked."""
        return {**self.metrics, **self.measurements}

    def write(self, path: Path) -> None:
        """Writes the record whole or not at all. Numbers that are not finite are left out, since JSON has none."""
        record = dataclasses.asdict(self)
        for kind in ("metrics", "measurements"):
            record[kind] = {name: value for name, value in record[kind].items() if math.isfinite(value)}
        atomic.write_json(path, record)

    @classmethod
    def read(cls, path: Path) -> "Outcome | None":
        """Reads the record, or None where no run has ended.

        Raises:
            StoreError: when the file is there and is not such a record.
        """
        if not path.exists():
            return None
        record = atomic.read_json(path)
        try:
            return cls(**{**record, "status": Status(record["status"])})
        except (TypeError, KeyError, ValueError) as error:
            raise StoreError(
                f"{path} is not the outcome of a run ({error}). Delete it to run that trial again."
            ) from error
