"""A run of a trial as its folder has it, as far as that can be read: what another version wrote too."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.errors import StoreError
from lowrung.report.record import HistoryPoint, RunRecord, Stretch
from lowrung.store import parts
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Numbers, Outcome, Status
from lowrung.studies import yaml_values
from lowrung.studies.doubts import Doubts
from lowrung.version import __version__

POINTS = 400_000
"""Points of all runs' histories together: 100 MB. Of longer ones every k-th is read, and each evaluation."""

_BULKY = ("ranks",)
"""Facts of a run that no report shows: the ranks by layer are 80 KB of memory a run."""

_SLACK = 3600.0
"""Seconds after its last report by which a run has left its outcome; a file that is younger was copied."""


def read(seed: int, folder: RunFolder | None, trial: int, doubts: Doubts, *, points: int = POINTS) -> RunRecord:
    """A run, from its folder.

    Args:
        seed: what it was trained with.
        folder: its results; None where they are gone.
        trial: the number of its trial, for doubts.
        doubts: takes what cannot be read.
        points: how many points of its history are read at most, beside its evaluations.
    """
    if folder is None:
        doubts.add("a run's folder is gone: what it reported, and what it measured by itself, is not shown", trial)
        return RunRecord(seed, None)
    outcome = _outcome(folder, trial, doubts)
    reports = list(_reports(folder, points, trial, doubts))
    started, ended = _times(folder, outcome, reports)
    known = _parts(folder, outcome)
    if known:
        started = known[-1].began
        ended = None if outcome is None else started + known[-1].seconds
    return RunRecord(
        seed,
        None if outcome is None else outcome.status,
        folder.path,
        outcome.cause if outcome else None,
        outcome.metrics if outcome else {},
        outcome.measurements if outcome else {},
        outcome.facts if outcome else {},
        [_point(report, started) for report in reports],
        started,
        ended,
        [Stretch(part.began, part.began + part.seconds) for part in known[:-1]],
    )


def _outcome(folder: RunFolder, trial: int, doubts: Doubts) -> Outcome | None:
    """How a run ended: the fields that this version knows, whichever wrote it."""
    try:
        fields = json.loads(folder.outcome.read_bytes())
        status = Status(fields["status"])
    except FileNotFoundError:
        return None
    except OSError as error:
        doubts.add(f"outcome.json of a run cannot be read: {error.strerror}", trial)
        return None
    except (ValueError, KeyError, TypeError):
        doubts.add(f"outcome.json of a run is none that lowrung {__version__} knows{_by(folder)}", trial)
        return None
    if fields.get("signature") not in (None, folder.path.name):
        doubts.add("outcome.json of a run is that of another run, and not shown", trial)
        return None
    cause, facts = fields.get("cause"), fields.get("facts")
    return Outcome(
        status,
        numbers(fields.get("metrics")),
        numbers(fields.get("measurements")),
        cause if isinstance(cause, str) else None,
        {name: value for name, value in facts.items() if name not in _BULKY} if isinstance(facts, dict) else {},
    )


def with_result(run: RunRecord, status: Status | None, metrics: Mapping[str, float]) -> RunRecord:
    """The run with another result."""
    return dataclasses.replace(run, status=status, metrics=metrics)


def numbers(found: Any) -> Numbers:
    """What is a number, of what should be numbers by name."""
    each = found.items() if isinstance(found, dict) else ()
    return Numbers({name: float(value) for name, value in each if _is_number(value)})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _by(folder: RunFolder) -> str:
    """Which version of lowrung wrote a run, as the end of a sentence."""
    writer = environment(folder).get("lowrung")
    return f": lowrung {writer} wrote it" if writer else ""


def seed_of(folder: RunFolder) -> int:
    """What a run was trained with, as its config says; 0, the default, where that cannot be read."""
    noted = yaml_values.value(folder.config, "seed")
    return int(noted) if noted is not None and noted.isdecimal() else 0


def environment(folder: RunFolder) -> Mapping[str, Any]:
    """What a run was made with; nothing where that cannot be read."""
    try:
        found = json.loads(folder.environment.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# -- the history -------------------------------------------------------------------------------------------------------


def _reports(folder: RunFolder, points: int, trial: int, doubts: Doubts) -> Iterator[Mapping[str, Any]]:
    """What a run reported, in order; a line that is still being written is left out."""
    try:
        content = folder.reports.read_bytes()
    except OSError:
        return
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    every = max(1, math.ceil(len(lines) / points))
    if every > 1:
        doubts.add("a long history is thinned: each evaluation is there, and a part of the steps", trial)
    for number, line in enumerate(lines):
        if number % every and number != len(lines) - 1 and b'"eval/' not in line:
            continue
        try:
            report = json.loads(line)
            moment = {"step": int(report["step"]), "time": float(report["time"]), "seconds": report.get("seconds")}
            yield {**moment, "metrics": numbers(report["metrics"])}
        except (ValueError, KeyError, TypeError):
            doubts.add("lines of a run's reports.jsonl are damaged, and left out", trial)


def _point(report: Mapping[str, Any], started: float | None) -> HistoryPoint:
    metrics = report["metrics"]
    seconds = report["seconds"]
    if not _is_number(seconds):  # of an older version
        seconds = report["time"] - (report["time"] if started is None else started)
    return HistoryPoint(report["step"], max(0.0, seconds), metrics.get("train/tokens"), metrics)


def _times(
    folder: RunFolder, outcome: Outcome | None, reports: Sequence[Mapping[str, Any]]
) -> tuple[float | None, float | None]:
    """When a run's process began and ended.

    The end is when its outcome was written; where the file was copied since, the last report's time stands for it.
    """
    first, last = (reports[0]["time"], reports[-1]["time"]) if reports else (None, None)
    ended = _modified(folder.outcome) if outcome else None
    took = outcome.measurements.get("time/total_seconds") if outcome else None
    if ended is not None and last is not None and not last - 1 <= ended <= last + _SLACK:
        ended = last
    if ended is not None and took is not None and math.isfinite(took):
        started: float | None = min(ended - took, ended if first is None else first)
    else:
        started = first if first is not None else _modified(folder.environment)
    return started, ended


def _parts(folder: RunFolder, outcome: Outcome | None) -> Sequence[parts.Part]:
    """What each process did of a run that was interrupted, or goes on; nothing of a run that ended in one go."""
    if outcome is not None:
        return parts.of_facts(outcome.facts)
    try:
        return parts.so_far(folder)
    except StoreError:
        return ()


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
