"""`lowrung clean`: what a study can do without is listed, then deleted. MLflow is not touched.

Only folders that lowrung made are deleted, and no link is followed out of them.
"""

import argparse
import dataclasses
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lowrung.commands.arguments import Commands
from lowrung.errors import StoreError, UsageError, blaming
from lowrung.store import atomic
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.store.outcome import Outcome
from lowrung.studies import finding
from lowrung.studies.folders import links

ABOUT = (
    "Deletes the files that a study does not need: the checkpoints, working files and merged models of its runs. They"
    " can be made again; a run that was interrupted then starts over. Results and adapters stay. Nothing is deleted in"
    " MLflow, not even with --all."
)


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("clean", help="delete the files that a study does not need", description=ABOUT)
    parser.add_argument("study", metavar="STUDY", help="a study in ./multirun, or a study's folder")
    parser.add_argument(
        "--all", action="store_true", help="delete the study and its runs too, except runs that other studies use"
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be deleted, and delete nothing")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> "Cleaning":
    with blaming(f"The study {chosen.study}"):
        return clean(chosen.study, everything=chosen.all, dry_run=chosen.dry_run)


@dataclasses.dataclass(frozen=True)
class Item:
    """A folder that can go.

    Attributes:
        path: the folder.
        bytes: the size of its files.
        lock: the lock of the process that works there.
    """

    path: Path
    bytes: int
    lock: Path


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What goes and what stays.

    Attributes:
        items: folders that go.
        held: folders that stay since another process works in them, or a job of SLURM's was submitted for them.
        strange: folders that jobs point to and that are no run's; they stay.
        shared: how many runs stay since jobs of other studies point to them.
        is_deleted: whether the items are gone; false for a dry run.
    """

    items: Sequence[Item] = ()
    held: Sequence[Path] = ()
    strange: Sequence[Path] = ()
    shared: int = 0
    is_deleted: bool = False

    def __str__(self) -> str:
        """One line a folder with its size, the total, and what stayed and why."""
        total = _human(sum(item.bytes for item in self.items))
        lines = [f"{_human(item.bytes):>8}  {item.path}" for item in self.items]
        lines.append(f"{total:>8}  in total{' deleted' if self.is_deleted else '; a dry run: nothing was deleted'}")
        if self.shared == 1:
            lines.append("1 run was kept, since another study uses it")
        elif self.shared:
            lines.append(f"{self.shared} runs were kept, since other studies use them")
        lines += [
            f"skipped, since another process works there, or a job of SLURM's waits: {path}" for path in self.held
        ]
        lines += [f"skipped, since it is not a run's folder: {path}" for path in self.strange]
        return "\n".join(lines)


def clean(name: str, *, everything: bool, dry_run: bool) -> Cleaning:
    """Deletes what a study can do without: checkpoints, working files and merged models, which can be made again.

    Args:
        name: a study's name below ./multirun, or a folder's path.
        everything: also the study, and its runs that no job of another study beside it points to.
        dry_run: delete nothing.

    Returns:
        what was deleted and what stayed.

    Raises:
        UsageError: when there is no such study.
        StoreError: when something cannot be read or deleted, for want of rights for example.
    """
    study = find(name, Path.cwd())
    try:
        found = survey(study, everything=everything)
        return found if dry_run else delete(found)
    except OSError as error:
        raise StoreError(
            f"{error.filename} must be readable and deletable, but it is not: {error.strerror}. Change its permissions."
        ) from error


def find(name: str, folder: Path) -> StudyFolder:
    """The study of this name; see `lowrung.studies.finding.find`.

    Raises:
        UsageError: when there is none, when ``folder`` is in it, or when its config is not lowrung's: what has another
            one, or none, may be somebody else's.
    """
    study = finding.find(name, folder)
    if not _is_config(study.config):
        raise UsageError(
            f"STUDY must have the {study.config.name} of a lowrung sweep for its files to be deleted, but"
            f" {study.path} has none. Delete what is left of it by hand."
        )
    if folder.resolve().is_relative_to(study.path):
        raise UsageError(f"STUDY must not hold the folder that you are in, but {study.path} does. Leave it first.")
    return study


def survey(study: StudyFolder, *, everything: bool) -> Cleaning:
    """The folders that would be deleted (see `clean`); nothing is."""
    if _is_held(study.lock):
        return Cleaning(held=[study.path])
    pointed = sorted(_targets(links(study.path)))
    runs = [RunFolder(path) for path in pointed if _is_run(RunFolder(path))]
    held = [run.path for run in runs if _is_held(run.lock) or _waits(run)]
    others = _pointed_by_others(study) if everything else set()
    items = [
        _item(path, run.lock)
        for run in runs
        if run.path not in held
        for path in ([run.path] if everything and run.path not in others else _can_be_made_again(run))
    ]
    if everything and not held:  # a batch of Hydra's own sweeper has no lock but those of its runs
        items.append(_item(study.path, study.lock))
    strange = [path for path in pointed if RunFolder(path) not in runs]
    return Cleaning(items, held, strange, sum(run.path in others for run in runs))


def delete(found: Cleaning) -> Cleaning:
    """Deletes what was found, except folders in which a process works by now; returns what was deleted."""
    deleted: list[Item] = []
    held = list(found.held)
    for item in found.items:
        try:
            with atomic.lock(item.lock):
                _delete_folder(item.path)
            deleted.append(item)
        except StoreError:
            held.append(item.lock.parent)
    return dataclasses.replace(found, items=deleted, held=list(dict.fromkeys(held)), is_deleted=True)


# -- which folders -----------------------------------------------------------------------------------------------------


def _is_run(run: RunFolder) -> bool:
    """Whether lowrung made this folder."""
    if _is_config(run.config):
        return True
    try:
        return Outcome.read(run.outcome) is not None
    except StoreError:
        return False


def _waits(run: RunFolder) -> bool:
    """Whether SLURM has a job of a run that has not ended: it may wait in the queue when its sweep is gone."""
    return run.slurm_job.is_file() and not run.outcome.is_file()


def _is_config(path: Path) -> bool:
    """Whether a YAML file holds the groups of a lowrung config, of an older version's too."""
    if not path.is_file():
        return False
    keys = re.findall(r"^(\w+):", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return {"model", "data", "lora", "train"} <= set(keys)


def _targets(links: Iterable[Path]) -> set[Path]:
    """The folders that links point to; links that dangle are left out."""
    return {target for link in links if (target := _target(link)).is_dir() and not target.is_symlink()}


def _target(link: Path) -> Path:
    """Where a link points, followed once: the store may be behind a link, but a run that is a link is no run."""
    target = link.parent.resolve() / link.readlink()
    return target.parent.resolve() / target.name


def _pointed_by_others(study: StudyFolder) -> set[Path]:
    """The folders that jobs of the other studies beside this one, and single runs, point to."""
    multirun = next((path for path in study.path.parents if path.name == "multirun"), study.path.parent)
    return _targets({*links(multirun), *links(multirun.parent / "outputs")} - set(links(study.path)))


def _can_be_made_again(run: RunFolder) -> Iterator[Path]:
    """The run's folders that are not its result."""
    yield from (path for path in (run.checkpoints, run.scratch, run.merged) if path.is_dir() and not path.is_symlink())


def _is_held(lock: Path) -> bool:
    """Whether a live process holds a lock; no lock file is made."""
    if not lock.exists():
        return False
    try:
        with atomic.lock(lock):
            return False
    except StoreError:
        return True


# -- files -------------------------------------------------------------------------------------------------------------


def _item(path: Path, lock: Path) -> Item:
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return Item(path, sum(file.lstat().st_size for file in files), lock)


def _delete_folder(path: Path) -> None:
    """Deletes a folder and what is in it; links in it are deleted, not followed."""
    # First, so that an interrupted deletion never leaves a result without its adapter.
    RunFolder(path).outcome.unlink(missing_ok=True)
    shutil.rmtree(path)


def _human(size: float) -> str:
    """A size in bytes in the unit that leaves one to three digits before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
