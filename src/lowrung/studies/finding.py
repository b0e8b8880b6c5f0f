"""Finds a study by its name, whatever is left of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.errors import UsageError, did_you_mean, some
from lowrung.store.layout import JobFolder, StudyFolder


def find(name: str | None, here: Path) -> StudyFolder:
    """The study of this name below ``here/multirun``, or the one in this folder; without a name the last one started.

    Raises:
        UsageError: when there is none.
    """
    known = sorted(_studies(here / "multirun"), key=lambda study: _started(study))
    if name is None:
        if known:
            return known[-1]
        raise UsageError(
            f"STUDY is the latest study unless it is named, but there is no study in {here / 'multirun'}. Run a sweep"
            " first, or name a study's folder."
        )
    for path in (here / "multirun" / name, here / Path(name).expanduser()):
        if name.strip() and is_study(StudyFolder(path)):
            return StudyFolder(path.resolve())
    names = sorted(study.path.name for study in known)
    listed = f" There are: {some(names, 12)}." if names else " There are none."
    raise UsageError(
        f"STUDY must be a study in {here / 'multirun'} or a study's folder, but is {name!r}."
        f"{did_you_mean(name, names)}{listed}"
    )


def started(here: Path) -> list[StudyFolder]:
    """The studies below ``here/multirun`` that have their config, the last one started last."""
    studies = (study for study in _studies(here / "multirun") if study.config.is_file())
    return sorted(studies, key=lambda study: _started(study))


def is_study(study: StudyFolder) -> bool:
    """Whether anything of a study is in a folder: one that is half deleted counts too."""
    if not study.path.is_dir():
        return False
    files = (study.config, study.database, study.leaderboard)
    return any(file.is_file() for file in files) or any(study.path.glob(f"*/{JobFolder(Path()).run.name}"))


def is_of_others(study: StudyFolder, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a leaderboard came from another study: the study's own jobs lead to other runs than it names.

    Args:
        study: the study in whose folder it is.
        rows: the leaderboard's, of any version. What has no job of its own here says nothing.
    """
    return any(
        link.is_symlink() and link.readlink().name != Path(str(run["results"])).name
        for row in rows
        for run in (row.get("runs") if isinstance(row.get("runs"), list) else None) or ()
        if isinstance(run, dict) and run.get("results")
        for link in _links(study, row.get("trial"), run.get("seed"))
    )


def _links(study: StudyFolder, trial: object, seed: object) -> tuple[Path, Path]:
    """Where the link to a run may be."""
    job = study.path / str(trial)
    return JobFolder(job).run, JobFolder(job / f"seed_{seed}").run


def _studies(multirun: Path) -> Iterator[StudyFolder]:
    folders = [path for path in multirun.glob("*") if path.is_dir() and not path.name.startswith(".")]
    return (study for study in map(StudyFolder, folders) if is_study(study))


def _started(study: StudyFolder) -> float:
    """When a study was last started: its coordinator writes the config first."""
    file = study.config if study.config.is_file() else study.path
    return file.stat().st_mtime
