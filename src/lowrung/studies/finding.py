"""Finds studies by their names, whatever is left of them, and those that a run is part of."""

import errno
from collections.abc import Iterator
from pathlib import Path

from lowrung.errors import UsageError, did_you_mean, some
from lowrung.store.layout import JobFolder, RunFolder, StudyFolder
from lowrung.studies.folders import Folders, Job


def find(name: str | None, here: Path) -> StudyFolder:
    """The study of this name; without a name the last one started.

    Raises:
        UsageError: when there is none.
    """
    known = started(here)
    if name is None:
        if known:
            return known[-1]
        raise UsageError(
            f"STUDY is the latest study unless it is named, but there is no study in {here / 'multirun'}. Run a sweep"
            " first, or name a study's folder."
        )
    if (study := named(name, here)) is not None:
        return study
    names = sorted(study.path.name for study in known)
    listed = f" There are: {some(names, 12)}." if names else " There are none."
    raise UsageError(
        f"STUDY must be a study in {here / 'multirun'} or a study's folder, but is {name!r}."
        f"{did_you_mean(name, names)}{listed}"
    )


def named(name: str, here: Path) -> StudyFolder | None:
    """The study of this name below ``here/multirun``, or the one in this folder; None where there is none."""
    places = (here / "multirun" / name, here / Path(name).expanduser()) if name.strip() else ()
    return next((StudyFolder(path.resolve()) for path in places if is_study(StudyFolder(path))), None)


def started(here: Path) -> list[StudyFolder]:
    """The studies below ``here/multirun``, the last one started last."""
    folders = [path for path in (here / "multirun").glob("*") if path.is_dir() and not path.name.startswith(".")]
    return sorted(filter(is_study, map(StudyFolder, folders)), key=_started)


def holding(run: RunFolder, here: Path) -> Iterator[tuple[StudyFolder, Job]]:
    """The studies below ``here/multirun`` that a run is part of, each with the run's job there."""
    folder = run.path.resolve()
    for study in sorted(started(here), key=lambda study: study.path.name):
        yield from ((study, job) for job in Folders.of(study).jobs if job.run == folder)


def is_study(study: StudyFolder) -> bool:
    """Whether anything of a study is in a folder: one of which only jobs are left, named by their numbers, too."""
    if not is_folder(study.path):
        return False
    files = (study.config, study.database, study.leaderboard)
    link = JobFolder(Path()).run.name
    jobs = (path for pattern in (f"[0-9]*/{link}", f"[0-9]*/seed_*/{link}") for path in study.path.glob(pattern))
    return any(file.is_file() for file in files) or any(path.is_symlink() for path in jobs)


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; no folder has a name that is too long for one."""
    try:
        return path.is_dir()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _started(study: StudyFolder) -> float:
    """When a study was last started: its coordinator writes the config first."""
    file = study.config if study.config.is_file() else study.path
    return file.stat().st_mtime
