"""How a run and its coordinator communicate: the run appends reports to a file, the coordinator answers by a stop file.

Plain files serve every engine alike, outlive both processes, and can be read by a person. Where runs execute on other
machines, the folder must be on storage that both see.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowrung.errors import StoreError
from lowrung.store import atomic, records
from lowrung.store.layout import RunFolder
from lowrung.store.records import Record


def post(folder: Path, report: Mapping[str, Any]) -> None:
    """Appends one report; called by the run."""
    with RunFolder(folder).reports.open("a", encoding="utf-8") as file:
        file.write(json.dumps(report, allow_nan=False) + "\n")


def warn(folder: Path, warning: Mapping[str, Any]) -> None:
    """Appends a warning of a library's; called by the run. What finds no room on the disk is dropped."""
    with contextlib.suppress(OSError), RunFolder(folder).warnings.open("a", encoding="utf-8") as file:
        file.write(json.dumps(warning) + "\n")


def warnings(folder: Path) -> list[Record]:
    """What libraries warned of in a run; a line that was not written whole is left out: no result depends on it."""
    found, path = [], RunFolder(folder).warnings
    for line in _whole_lines(path, 0):
        with contextlib.suppress(StoreError):
            found.append(records.parse(line, path))
    return found


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
    for path in (RunFolder(folder).reports, RunFolder(folder).warnings, RunFolder(folder).stop):
        path.unlink(missing_ok=True)


class Reader:
    """Reads a mailbox from where it last stopped."""

    def __init__(self, folder: Path) -> None:
        self._path = RunFolder(folder).reports
        self._offset = 0

    def read(self) -> list[Record]:
        """The reports that arrived since the last call. A line that is still being written waits for the next."""
        lines = _whole_lines(self._path, self._offset)
        self._offset += sum(map(len, lines))
        return [records.parse(line, self._path) for line in lines]


def _whole_lines(path: Path, offset: int) -> list[bytes]:
    """The lines of a file from an offset on that have their ends."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return []
    return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
