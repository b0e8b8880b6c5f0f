"""`lowrung report`: a study as a table, a page and CSV."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from lowrung.commands.arguments import Commands
from lowrung.errors import UsageError, blaming
from lowrung.report import page, plots, rows, tabular, verdict
from lowrung.report.record import StudyRecord
from lowrung.store import atomic, disk
from lowrung.store.layout import StudyFolder
from lowrung.studies import finding, reading

ABOUT = (
    "Prints a study's leaderboard and verdict, and writes report.html, which needs no network, its main plots as PNG,"
    " and CSV. A study that runs, was interrupted, or has lost a part of its files is shown as far as it is there."
)

LOOK_SECONDS = 2.0
"""Between two looks at a study's files."""

SETTLED = 3
"""So many looks in a row must find no coordinator before a study has ended: it leaves its leaderboard last."""


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


def _run(chosen: argparse.Namespace) -> None:
    folder = finding.find(chosen.study, Path.cwd())
    out = Path(chosen.out).expanduser().absolute() if chosen.out else folder.report
    unwritable = disk.unwritable("--out", out)
    with blaming(f"The study in {folder.path}"):
        if chosen.watch and not unwritable:
            _watch(folder, out)
        study = reading.read(folder)
        paths = [] if unwritable else write(study, out)
    print(shown(study))
    for path in paths:
        print(path)
    if unwritable:
        raise UsageError(unwritable)


def shown(study: StudyRecord) -> str:
    """What is printed: the leaderboard with its verdict, then the study's state, and what could not be read."""
    ended = any(trial.status is not None for trial in study.trials)
    unended = [str(trial.number) for trial in study.trials if trial.status is None]
    parts = [rows.table(study)] if ended else []
    parts += [verdict.text(study.verdict, study.warnings)] if study.verdict else []
    if study.state != reading.COMPLETE:
        parts.append(f"study {study.name} is {study.state}" + (f"; not ended: {', '.join(unended)}" if unended else ""))
    parts += ["\n".join(f"note: {doubt}" for doubt in study.doubts)] if study.doubts else []
    return "\n\n".join(parts) + "\n"


def write(study: StudyRecord, out: Path, *, reloads: bool = False) -> list[Path]:
    """Writes the page, and unless it is to be rewritten soon the CSV and the images too; returns the files."""
    html = out / "report.html"
    atomic.write_text(html, page.render(study, plots.draw(study), reloads=reloads))
    if reloads:
        return [html]
    tables = {out / "leaderboard.csv": tabular.leaderboard(study), out / "runs.csv": tabular.curves(study)}
    for path, text in tables.items():
        atomic.write_text(path, text)
    return [html, *tables, *plots.png(study, out)]


def _watch(folder: StudyFolder, out: Path) -> None:
    """Writes the page whenever the study's files have changed, until the study ends or the user does."""
    print(f"watching {folder.path}; Ctrl-C ends it", flush=True)
    before: object = None
    quiet = 0
    try:
        while quiet < SETTLED:
            now = sorted(_times(folder))
            quiet = 0 if now != before else quiet + 1
            if now != before:
                study = reading.read(folder)
                (path,) = write(study, out, reloads=True)
                ended = sum(trial.status is not None for trial in study.trials)
                total = "" if study.total is None else f" of {study.total}"
                print(f"{time.strftime('%H:%M:%S')}  {study.state}, {ended}{total} trials ended: {path}", flush=True)
            if study.state == reading.COMPLETE:
                return
            quiet = 0 if study.state == reading.RUNNING else quiet
            time.sleep(LOOK_SECONDS)
            before = now
    except KeyboardInterrupt:
        print("no longer watching")


def _times(folder: StudyFolder) -> Iterator[tuple[str, int, int]]:
    """The files that change as a study goes on, with times and sizes."""
    jobs = folder.path.glob("*/run/reports.jsonl"), folder.path.glob("*/seed_*/run/reports.jsonl")
    for file in (folder.database, folder.leaderboard, *(file for each in jobs for file in each)):
        try:
            stat = file.stat()
        except OSError:
            continue
        yield str(file), stat.st_mtime_ns, stat.st_size
