"""`lowrung report`: a study as a table, a page and CSV."""

import argparse
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lowrung.commands.arguments import Commands
from lowrung.errors import UsageError, blaming
from lowrung.report import facts
from lowrung.report.facts import Ratio
from lowrung.report.record import COMPLETE, EMPTY, ENDED, PARTIAL, RUNNING, StudyRecord
from lowrung.store import atomic, disk
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.store.outcome import Status
from lowrung.studies.folders import links

ABOUT = (
    "Prints a study's leaderboard and verdict, and writes report.html, which needs no network, its main plots as PNG,"
    " and CSV. A study that runs, was interrupted, or has lost a part of its files is shown as far as it is there."
)

LOOK_SECONDS = 2.0
"""Between two looks at a study's files."""

SHARE = 5
"""So many times as long as a look took nothing is done: the sweep needs the cores."""

SETTLED = 4
"""So many looks in a row must find no coordinator before a study has ended: it leaves its leaderboard last."""

SILENT_SECONDS = 40.0
"""Without a change of the database after which a coordinator is asked for."""


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("report", help="show a study: a table, a page and CSV", description=ABOUT)
    parser.add_argument(
        "study", metavar="STUDY", nargs="?", help="a study in ./multirun, or a study's folder (default: the latest)"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the files go (default: multirun/STUDY/report)")
    parser.add_argument(
        "--watch", action="store_true", help="write the page anew as the sweep goes on; it reloads itself"
    )
    parser.set_defaults(command=_run)


@dataclasses.dataclass(frozen=True)
class Report:
    """A study, and the files that show it.

    Attributes:
        study: its name.
        folder: the study's.
        state: complete, partial, running, interrupted or empty, as `lowrung studies` has it.
        objectives: metrics with minimize or maximize; the first one ranks.
        asked: trials that were asked for, and those that were drawn in the places of trials that the plan leaves out;
            null where that is not known.
        ended: trials that have ended, whichever way.
        complete: numbers of the complete trials, best first.
        preferred: the number of the trial to take; null where there is none.
        verdict: the answer, and what it rests on, a sentence each.
        warnings: where the question is badly put.
        plan: how far what the runs measured is from what was predicted of them; empty where nothing was.
        doubts: what could not be read, in words.
        files: what was written: the page, CSV with all trials, and images.
        text: what is printed without ``--json``.
    """

    study: str
    folder: Path
    state: str
    objectives: Mapping[str, str]
    asked: int | None
    ended: int
    complete: Sequence[int]
    preferred: int | None
    verdict: Sequence[str]
    warnings: Sequence[str]
    plan: Sequence[Ratio]
    doubts: Sequence[str]
    files: Sequence[Path]
    text: str

    @classmethod
    def of(cls, study: StudyRecord, files: Sequence[Path]) -> "Report":
        """The report of a study that was read, and written to these files."""
        ended = [trial for trial in study.trials if trial.status is not None]
        return cls(
            study.name,
            study.folder,
            study.state,
            study.objectives,
            study.total,
            len(ended),
            [trial.number for trial in ended if trial.status is Status.COMPLETE],
            study.preferred,
            study.verdict,
            study.warnings,
            facts.ratios(facts.of(study)),
            study.doubts,
            files,
            "\n".join([shown(study), *map(str, files)]),
        )

    def __str__(self) -> str:
        """The table, the verdict, and where the files are."""
        return self.text


def _run(chosen: argparse.Namespace) -> Iterator[Report]:
    from lowrung.studies import finding, reading  # imports optuna (0.5 s)

    folder = finding.find(chosen.study, Path.cwd())
    out = Path(chosen.out).expanduser().absolute() if chosen.out else folder.report
    unwritable = disk.unwritable("--out", out)
    with blaming(f"The study in {folder.path}"):
        if chosen.watch and not unwritable:
            _watch(folder, out)
        study = reading.read(folder)
        paths = [] if unwritable else write(study, out)
    yield Report.of(study, paths)
    if unwritable:
        raise UsageError(unwritable)


def shown(study: StudyRecord) -> str:
    """What is printed: the leaderboard with its verdict, then the study's state, and what could not be read."""
    from lowrung.report import rows, verdict  # imports scipy (0.3 s)

    ended = any(trial.status is not None for trial in study.trials)
    unended = [str(trial.number) for trial in study.trials if trial.status is None]
    parts = [rows.table(study)] if ended else []
    parts += [verdict.text(study.verdict, study.warnings)] if study.verdict else []
    parts += filter(None, [facts.text(facts.ratios(facts.of(study)))])
    if study.state == EMPTY:
        parts.append(f"study {study.name} has no trial yet")
    elif study.state == PARTIAL:
        parts.append(f"study {study.name} is partial: {_so_far(study)}")
    elif study.state != COMPLETE:
        parts.append(f"study {study.name} is {study.state}" + (f"; not ended: {', '.join(unended)}" if unended else ""))
    parts += ["\n".join(f"note: {doubt}" for doubt in study.doubts)] if study.doubts else []
    return "\n\n".join(parts) + "\n"


def write(study: StudyRecord, out: Path, *, reloads: bool = False) -> list[Path]:
    """Writes the page, and unless it is to be rewritten soon the CSV and the images too; returns the files."""
    from lowrung.report import page, plots, tabular

    html = out / "report.html"
    atomic.write_text(html, page.render(study, plots.draw(study), reloads=reloads))
    if reloads:
        return [html]
    tables = {out / "leaderboard.csv": tabular.leaderboard(study), out / "runs.csv": tabular.curves(study)}
    for path, text in tables.items():
        atomic.write_text(path, text)
    return [html, *tables, *plots.png(study, out)]


def _watch(folder: StudyFolder, out: Path) -> None:
    """Writes the page whenever the runs have left something new, until the study ends or the user does."""
    from lowrung.studies import reading

    print(f"watching {folder.path}; Ctrl-C ends it", flush=True)
    before: object = None
    said = ""
    alone = 0
    try:
        while alone < SETTLED:
            began, now = time.monotonic(), sorted(_times(folder))
            if now != before or alone or _is_silent(folder):
                study = reading.read(folder)
                if study.state in ENDED:
                    return
                alone = 0 if study.state == RUNNING else alone + 1
                if now != before and not alone:
                    (page,) = write(study, out, reloads=True)
                    if (text := _so_far(study)) != said:  # a sweep of hours writes the page a thousand times
                        print(f"{time.strftime('%H:%M:%S')}  {text}: {page}", flush=True)
                    said = text
                before = now
            time.sleep(max(LOOK_SECONDS, SHARE * (time.monotonic() - began)))
    except KeyboardInterrupt:
        print("no longer watching")


def _so_far(study: StudyRecord) -> str:
    ended = sum(trial.status is not None for trial in study.trials)
    total = "" if study.total is None else f" of {study.total}"
    return f"{ended}{total} trials have ended"


def _times(folder: StudyFolder) -> Iterator[tuple[str, int, int]]:
    """The files that change as a study goes on, with times and sizes."""
    of_runs = [RunFolder(link) for link in links(folder.path)]
    for file in (folder.leaderboard, *(file for run in of_runs for file in (run.reports, run.outcome))):
        try:
            stat = file.stat()
        except OSError:
            continue
        yield str(file), stat.st_mtime_ns, stat.st_size


def _is_silent(folder: StudyFolder) -> bool:
    """Whether no coordinator may be there any more: one that lives writes to the database every few seconds."""
    try:
        return time.time() - folder.database.stat().st_mtime > SILENT_SECONDS
    except OSError:
        return True
