"""`lowrung studies`: what there is below multirun/, the latest first."""

import argparse
import dataclasses
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lowrung.commands.arguments import Commands
from lowrung.errors import StoreError, UsageError, did_you_mean, in_short
from lowrung.report.record import EMPTY, INTERRUPTED, RUNNING, ended_state
from lowrung.report.tables import table
from lowrung.search import tally
from lowrung.search.tally import Tally
from lowrung.store import atomic
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.studies import finding
from lowrung.studies.folders import Folders, Job

ABOUT = (
    "Lists the studies in ./multirun, the one that was touched last first: how far each is, its best trial, and what"
    " its leaderboard says. Nothing is changed, and a study that cannot be read is listed with the reason."
)

UNREADABLE = "unreadable"
"""The state of a study that cannot be read; `lowrung.report.record` has the others."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: its folder's, which commands take.
        state: ``running``: a process works on it; ``complete``: it has its leaderboard; ``partial``: it has one of
            fewer trials than were asked for, since its budget or its time limit ended it, or no more were drawn when
            too many in a row were left out; ``interrupted``: the same command goes on with it; ``empty``: no trial has
            begun; ``unreadable``: ``problem`` says why.
        trials: how many, by status; ``running`` are those that have not ended.
        asked: how many were asked for, and those that were drawn in the places of trials that the plan leaves out; null
            where that is not known.
        metric: what it optimises, the first one of several; null where that is not known.
        best: the number of the best complete trial; null where there is none.
        value: of the metric, that trial's.
        verdict: what its leaderboard says, in a sentence; null before it has ended.
        touched: when its files changed last, in UTC as ISO 8601 has it.
        folder: the study's.
        problem: what of it cannot be read; null where all can.
    """

    name: str
    state: str
    trials: Mapping[str, int]
    asked: int | None
    metric: str | None
    best: int | None
    value: float | None
    verdict: str | None
    touched: str
    folder: Path
    problem: str | None = None

    @property
    def row(self) -> list[str]:
        """The cells of a table."""
        counts = {**self.trials, "not begun": max(0, (self.asked or 0) - sum(self.trials.values()))}
        trials = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        value = "" if self.value is None else f"{self.metric or 'value'} {self.value:.4g} (trial {self.best})"
        touched = datetime.fromisoformat(self.touched).astimezone().strftime("%Y-%m-%d %H:%M")
        return [self.name, self.state, trials or "none", value, touched, self.problem or self.verdict or ""]


@dataclasses.dataclass(frozen=True)
class Studies:
    """The studies below a folder.

    Attributes:
        folder: where they are.
        studies: the one that was touched last first.
    """

    folder: Path
    studies: Sequence[Study]

    def __str__(self) -> str:
        """A row for each study."""
        if not self.studies:
            return f"There is no study in {self.folder}. `lowrung train -m lora.r=4,8` makes one."
        head = ["study", "state", "trials", "best", "touched", "verdict"]
        return table(head, [study.row for study in self.studies], left=head)


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("studies", help="list the studies, and how far each is", description=ABOUT)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="where (default: ./multirun)")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> Studies:
    return studies(Path(chosen.folder or "multirun").expanduser().absolute(), asked=chosen.folder is not None)


def studies(folder: Path, *, asked: bool = True) -> Studies:
    """Lists the studies of a folder.

    Args:
        folder: such as ``multirun``.
        asked: whether the user named it: then it must be there.

    Raises:
        UsageError: when it is no folder.
    """
    if not folder.is_dir():
        if folder.exists() or asked:
            near = [path.name for path in folder.parent.glob("*") if path.is_dir()]
            raise UsageError(f"FOLDER must be one with studies, but {folder} is none.{did_you_mean(folder.name, near)}")
        return Studies(folder, [])
    try:
        found = [_study(StudyFolder(path)) for path in folder.iterdir() if _is_study(path)]
    except PermissionError as error:
        raise StoreError(f"{error.filename} must be readable, but is not. Change its permissions.") from error
    return Studies(folder, sorted(found, key=lambda one: (one.touched, one.name), reverse=True))


def _is_study(path: Path) -> bool:
    try:
        return finding.is_study(StudyFolder(path))
    except PermissionError:
        return True  # it may be one, and its row says why nobody knows


def _study(folder: StudyFolder) -> Study:
    try:
        return _read(folder)
    except PermissionError as error:
        problem = f"{error.filename} is not readable: change its permissions"
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:  # odd records, or just deleted
        problem = f"its records are none of this version's ({in_short(error)}): start the study again"
    return _made(folder, UNREADABLE, {}, None, (None, None, None), None, [problem])


def _read(folder: StudyFolder) -> Study:
    problems: list[str] = []
    known = _tally(folder, problems)
    rows = _leaderboard(folder, problems)
    is_running = _is_running(folder, known)
    if rows and not is_running and (known is None or _is_current(folder, known)):
        return _ended(folder, rows, known, problems)
    asked = known.asked if known else None
    counts = known.counts if known else _counted(folder, problems)
    state = RUNNING if is_running else INTERRUPTED if counts else EMPTY
    if problems and not counts and not is_running:
        state = UNREADABLE
    metric, best, value = (known.metric, known.best, known.value) if known else (None, None, None)
    return _made(folder, state, counts, asked, (metric, best, value), None, problems)


def _made(
    folder: StudyFolder,
    state: str,
    counts: Mapping[str, int],
    asked: int | None,
    best: tuple[str | None, int | None, float | None],
    verdict: str | None,
    problems: Sequence[str],
) -> Study:
    order = [*Status, RUNNING]
    by_status = dict(sorted(counts.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))
    problem = "; ".join(problems) or None
    return Study(folder.path.name, state, by_status, asked, *best, verdict, _stamp(folder), folder.path, problem)


def _ended(folder: StudyFolder, rows: Sequence[Mapping[str, Any]], known: Tally | None, problems: list[str]) -> Study:
    """A study whose leaderboard is the end of all that it has."""
    said = _json(folder.verdict, dict, problems) or {}
    if not said and not problems:
        problems.append(f"{folder.verdict.name} is missing: start the study again, and it is written anew")
    metric = said.get("metric")
    kept = (row for row in rows if row["status"] == Status.COMPLETE and not row.get("broken"))
    best = next((row for row in kept if metric is None or metric in row.get("metrics", {})), None)
    value = None if best is None else best.get("metrics", {}).get(metric)
    counts = Counter(str(row["status"]) for row in rows)
    number = None if best is None else int(best["trial"])
    asked = known.asked if known else None
    state = ended_state(len(rows), asked)
    return _made(folder, state, counts, asked, (metric, number, value), said.get("verdict"), problems)


def _tally(folder: StudyFolder, problems: list[str]) -> Tally | None:
    """What the study's own database has; none where its storage is elsewhere."""
    if not folder.database.is_file():
        return None
    try:
        return tally.read(folder.database, folder.path.name)
    except ValueError as error:
        problems.append(str(error))
        return None


def _leaderboard(folder: StudyFolder, problems: list[str]) -> list[Any]:
    rows = _json(folder.leaderboard, list, problems) or []
    if not all(isinstance(row, dict) and {"status", "trial"} <= row.keys() for row in rows):
        wrong = "is none of this version's"
    elif Folders.of(folder).contradict(rows):
        wrong = "names other runs than this study's"
    else:
        return rows
    problems.append(f"{folder.leaderboard.name} {wrong}: start the study again, it is written anew")
    return []


def _json(file: Path, kind: type, problems: list[str]) -> Any:
    """What a file holds; None where it is not there, or holds something else."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        problems.append(f"{file.name} must be JSON, but is not ({error}): start the study again, it is written anew")
        return None
    if not isinstance(found, kind):
        problems.append(f"{file.name} holds something else than lowrung writes: start the study again")
        return None
    return found


def _is_running(folder: StudyFolder, known: Tally | None) -> bool:
    """Whether a process holds the study. Its lock is tried only where the study does not say that it is free."""
    if (known is not None and not known.has_coordinator) or not folder.lock.exists():
        return False
    try:
        with atomic.lock(folder.lock):
            return False
    except StoreError:
        return True


def _is_current(folder: StudyFolder, known: Tally) -> bool:
    """Whether no trial has begun or ended since the leaderboard was written."""
    written = folder.leaderboard.stat().st_mtime
    return not known.counts.get(RUNNING) and (known.last_end or 0.0) <= written


def _counted(folder: StudyFolder, problems: list[str]) -> Mapping[str, int]:
    """The trials as their runs' folders have them, for want of a database: a trial is what its first bad run is."""
    counts: Counter[str] = Counter()
    for _, jobs in itertools.groupby(Folders.of(folder).jobs, key=lambda job: job.number):
        statuses = list(_statuses(jobs, problems))
        counts[next((status for status in statuses if status != Status.COMPLETE), Status.COMPLETE)] += 1
    return counts


def _statuses(jobs: Iterable[Job], problems: list[str]) -> Iterator[str]:
    for job in jobs:
        try:
            outcome = Outcome.read(RunFolder(job.run).outcome)
        except StoreError as error:
            problems.append(str(error))
            continue
        yield str(outcome.status) if outcome else RUNNING


def _stamp(folder: StudyFolder) -> str:
    """When a study's own files changed last."""
    names = (folder.path, folder.leaderboard, folder.verdict, folder.database, Path(f"{folder.database}-wal"))
    times = []
    for file in names:
        try:
            times.append(file.stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times, default=time.time()), UTC).isoformat(timespec="seconds")
