"""How a run and its coordinator communicate: the run appends reports to a file, the coordinator answers by a stop file.

Plain files serve every engine alike, outlive both processes, and can be read by a person. Where runs execute on other
machines, the folder must be on storage that both see.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowrung.store import atomic, records
from lowrung.store.layout import RunFolder
from lowrung.store.records import Record


def post(folder: Path, report: Mapping[str, Any]) -> None:
    """Appends one report; called by the run."""
    with RunFolder(folder).reports.open("a", encoding="utf-8") as file:
        file.write(json.dumps(report, allow_nan=False) + "\n")


def ask_to_stop(folder: Path, reason: str = "") -> None:
    """Tells the run to end after its present step, and why; called by the coordinator."""
    atomic.write_text(RunFolder(folder).stop, reason)


def stop_reason(folder: Path) -> str | None:
    """Why the coordinator wants the run to end, or None where it does not; called by the run."""
    try:
        return RunFolder(folder).stop.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def clear(folder: Path) -> None:
    """Empties the mailbox before a run starts."""
    for path in (RunFolder(folder).reports, RunFolder(folder).stop):
        path.unlink(missing_ok=True)


class Reader:
    """Reads a mailbox from where it last stopped."""

    def __init__(self, folder: Path) -> None:
        self._path = RunFolder(folder).reports
        self._offset = 0

    def read(self) -> list[Record]:
        """The reports that arrived since the last call. A line that is still being written waits for the next."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [records.parse(line, self._path) for line in whole.splitlines()]
