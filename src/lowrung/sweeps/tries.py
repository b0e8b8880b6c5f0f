"""The jobs of runs as a study holds them, and how long each took."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowrung.store import layout, parts
from lowrung.store.layout import RunFolder

TRIES = "tries"
"""The fact of a run in the study that holds its jobs: when each began, how long it took, and its GPUs and threads."""

HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class Try:
    """One job of a run.

    Attributes:
        began: in seconds since 1970.
        gpus: that it has; a part of one where several share it.
        threads: that it has.
        seconds: from its start to its end; None where the end is not known, since the coordinator was killed.
        planned: seconds that it was to take.
        claim: what its run's folder was given to.
    """

    began: float
    gpus: float
    threads: int
    seconds: float | None = None
    planned: float = 0.0
    claim: str = ""

    def hours(self, unit: str, seconds: float) -> float:
        """What so many seconds of it are, in this unit."""
        return seconds / HOUR * (self.gpus if unit == "gpu_hours" else self.threads)

    @property
    def written(self) -> dict[str, Any]:
        """It for the study: without what its end has made needless."""
        fields = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in fields.items() if value is not None and value != ""}


FIELDS = tuple(field.name for field in dataclasses.fields(Try))


def of_run(facts: Mapping[str, Any], store: Path, *, waits: bool) -> list[tuple[Try, str]]:
    """A run's jobs; one that was cut took what its mailbox and its log show, which is said in words.

    Args:
        facts: what a study holds of the run.
        store: its results'.
        waits: whether jobs wait for their GPUs; see `lowrung.sweeps.spending.waits`.
    """
    folder = layout.run_folder(store, str(facts.get("signature")))
    return [_ended(written, folder, waits) for written in facts.get(TRIES, ())]


def _ended(written: Mapping[str, Any], folder: RunFolder, waits: bool) -> tuple[Try, str]:
    known = Try(**{name: value for name, value in written.items() if name in FIELDS})
    if known.seconds is not None:
        return known, ""
    seconds, shown = _left_of(known, start_of(known, folder, waits=waits), folder)
    said = f"was cut {seconds:.0f} s after its start, by {shown}" if shown else ""
    return dataclasses.replace(known, seconds=seconds), said


def start_of(job: Try, folder: RunFolder, *, waits: bool) -> float | None:
    """When a job began to use its GPUs; None where it still waits for them.

    One of a cluster waits first, and its node writes a file when it begins; that of an earlier job was deleted.
    """
    if not waits:
        return job.began
    return folder.node.stat().st_mtime if folder.node.is_file() else parts.began(folder)


def _left_of(job: Try, start: float | None, folder: RunFolder) -> tuple[float, str]:
    """How long a job ran that was cut, and what says so; nothing does of one that never began."""
    if text(folder.claim) != job.claim:  # another sweep has taken the folder since, and its files are not this job's
        return job.planned, "the plan: another sweep went on with it"
    if start is None:
        return 0.0, ""
    return max(0.0, parts.last_sign(folder) - start), "what its mailbox and its log show"


def text(path: Path) -> str:
    """What is in a file; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
