"""The parts of a run: one that was interrupted goes on in another process, and has taken what all of them took."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.store import atomic, records
from lowrung.store.layout import CHECKPOINT_MARK, RunFolder

_FACT = "parts"

_Moment = tuple[int, tuple[str, ...]]
"""A step, and the names of what was reported at it."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What one process did of a run.

    Attributes:
        began: in seconds since 1970.
        seconds: that it took. Of one that was killed: until its last sign of life.
    """

    began: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Noted:
    """What a run's folder says of its parts: those that have ended, and when the one that has not began."""

    ended: Sequence[Part] = ()
    began: float | None = None

    @classmethod
    def read(cls, folder: RunFolder) -> "_Noted":
        """Reads it.

        Raises:
            StoreError: when the file holds anything else.
        """
        if not folder.parts.is_file():
            return cls()
        record = records.read(folder.parts)
        try:
            began = None if record["began"] is None else float(record["began"])
            return cls([Part(float(start), float(seconds)) for start, seconds in record["ended"]], began)
        except (TypeError, ValueError) as error:
            problem = f"must hold the times of a run's parts, but does not ({error})"
            raise records.unreadable(folder.parts, problem) from error

    def write(self, folder: RunFolder) -> None:
        atomic.write_json(
            folder.parts, {"ended": [dataclasses.astuple(part) for part in self.ended], "began": self.began}
        )


class Clock:
    """Counts the time of a run's present part on from that of its earlier ones.

    Args:
        folder: the run's, locked by this process.
    """

    def __init__(self, folder: RunFolder) -> None:
        close(folder, is_begun_again=True)  # a scheduler may have started this job again
        self._folder = folder
        self._earlier = list(_Noted.read(folder).ended)
        self._began, self._started = time.time(), time.perf_counter()
        self._resumed_at = last_checkpoint(folder)
        # Of two reports at one moment, the last counts: the run goes on from it.
        self._known = dict(_reported(folder.earlier_reports)) if self._resumed_at else {}
        _Noted(self._earlier, self._began).write(folder)

    def moment(self, step: int, metrics: Mapping[str, float]) -> tuple[float, float]:
        """When something is reported: in seconds since 1970, and in seconds of the run.

        A run that goes on from a checkpoint reports again what it had reported until then: that has its first times.
        """
        now = time.time(), sum(part.seconds for part in self.parts)
        return self._known.get(_moment(step, metrics), now) if step <= self._resumed_at else now

    @property
    def parts(self) -> list[Part]:
        """All parts so far, the present one last."""
        return [*self._earlier, Part(self._began, time.perf_counter() - self._started)]

    def stop(self) -> list[Part]:
        """Notes that the present part has ended; returns all."""
        parts = self.parts
        _Noted(parts).write(self._folder)
        return parts


def last_checkpoint(folder: RunFolder) -> int:
    """The step that a run would go on from; 0 where it would start anew."""
    return max((int(mark.parent.name.rpartition("-")[2]) for mark in _marks(folder)), default=0)


def _marks(folder: RunFolder) -> Iterator[Path]:
    return folder.checkpoints.glob(f"checkpoint-*/{CHECKPOINT_MARK}")


def close(folder: RunFolder, *, is_begun_again: bool = False) -> None:
    """Ends a part whose process was killed, and keeps the times of its reports, before its mailbox is cleared.

    Args:
        folder: the run's.
        is_begun_again: whether the next process has begun, so that the log is its too.
    """
    noted = _Noted.read(folder)
    if noted.began is not None:
        signs = [folder.reports, folder.system] if is_begun_again else _signs(folder)
        _Noted([*noted.ended, _cut(folder, noted, signs)]).write(folder)
    if not last_checkpoint(folder):
        folder.earlier_reports.unlink(missing_ok=True)
    elif folder.reports.is_file():
        with folder.earlier_reports.open("ab") as file:
            file.write(
                b"".join(line for line in folder.reports.read_bytes().splitlines(keepends=True) if _is_whole(line))
            )


def so_far(folder: RunFolder) -> list[Part]:
    """What each process has done of a run that has not ended."""
    noted = _Noted.read(folder)
    return [*noted.ended, *([] if noted.began is None else [_cut(folder, noted, _signs(folder))])]


def _cut(folder: RunFolder, noted: _Noted, signs: Sequence[Path]) -> Part:
    """The part that has not ended: it took until its last report by its own clock, and from there to the last sign.

    Machines' clocks differ, and are set. So a file's time is compared with another file's, and with nothing else.
    """
    assert noted.began is not None
    earlier = sum(part.seconds for part in noted.ended)
    own = max((seconds for _, (_, seconds) in _reported(folder.reports)), default=0.0) - earlier
    known = folder.reports if own > 0 else folder.parts  # what is reported again has the time of an earlier part
    after = max(map(_modified, signs)) - _modified(known)
    return Part(noted.began, max(0.0, own) + max(0.0, after))


def as_fact(done: Sequence[Part]) -> dict[str, list[tuple[float, float]]]:
    """The parts of a run as its outcome has them, see `of_facts`; nothing of a run that was done in one go."""
    return {_FACT: [(part.began, part.seconds) for part in done]} if len(done) > 1 else {}


def of_facts(facts: Mapping[str, Any]) -> list[Part]:
    """The parts of a run, by the facts of its outcome; none of a run that was done in one go."""
    try:
        return [Part(float(began), float(seconds)) for began, seconds in facts.get(_FACT, ())]
    except (ValueError, TypeError):
        return []


def began(folder: RunFolder) -> float | None:
    """When the part of a run began that has not ended; None where there is none."""
    return _Noted.read(folder).began


def last_sign(folder: RunFolder) -> float:
    """When a run's process gave its last sign of life, in seconds since 1970; 0 where it gave none."""
    return max(map(_modified, (*_signs(folder), folder.outcome, *_marks(folder))))


def _signs(folder: RunFolder) -> list[Path]:
    """What a process goes on writing to."""
    return [folder.log, folder.reports, folder.system]


def _reported(file: Path) -> Iterator[tuple[_Moment, tuple[float, float]]]:
    """When each report in a file was made: in seconds since 1970, and in seconds of the run."""
    if not file.is_file():
        return
    for line in file.read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            report: dict[str, Any] = json.loads(line)
            yield _moment(report["step"], report["metrics"]), (float(report["time"]), float(report["seconds"]))


def _moment(step: int, metrics: Mapping[str, float]) -> _Moment:
    return step, tuple(metrics)


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"\n")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
