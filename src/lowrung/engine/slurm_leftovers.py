"""What jobs leave that ended while no coordinator was there: their files, and the records that name them."""

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from lowrung.engine import slurm_commands
from lowrung.engine.slurm_commands import NoAnswer
from lowrung.engine.slurm_submission import Submitted, remove
from lowrung.errors import StoreError
from lowrung.store import atomic, layout
from lowrung.store.layout import RunFolder

OLD_SECONDS = 3600.0
"""From which age a file that no record names is of no coordinator that is about to write the record."""


def tidy(folder: Path) -> None:
    """Deletes them; jobs that wait or run, those of other coordinators, and all where SLURM does not answer stay.

    Args:
        folder: in which the jobs' folders lie.
    """
    folder = folder.resolve()  # as jobs name it
    root = layout.slurm_folder(folder / "any")
    if not root.is_dir():
        return
    noted = _noted(folder)
    unnamed = [one for one in _left(root) if one not in noted and _is_old(one.files)]
    with contextlib.suppress(NoAnswer):
        ended = _ended([*noted, *unnamed])
        for job in ended:
            with contextlib.suppress(StoreError):  # another coordinator's, which is about to read its answer
                _delete(job, noted.get(job))
        for files in root.glob("*"):  # of a coordinator that was killed before it had submitted anything
            if _is_old(files) and not any(files.glob("*_submitted.pkl")):
                remove(files)


def _noted(folder: Path) -> dict[Submitted, RunFolder]:
    found = {}
    for path in folder.glob(f"*/{RunFolder(folder).slurm_job.name}"):
        with contextlib.suppress(StoreError, OSError, KeyError):
            if job := Submitted.of(RunFolder(path.parent)):
                found[job] = RunFolder(path.parent)
    return found


def _left(root: Path) -> Iterable[Submitted]:
    return (Submitted(path.name.removesuffix("_submitted.pkl"), path.parent) for path in root.glob("*/*_submitted.pkl"))


def _is_old(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > OLD_SECONDS
    return False


def _ended(jobs: Sequence[Submitted]) -> list[Submitted]:
    """Those that SLURM says have ended, or has forgotten."""
    known = slurm_commands.states(each.job for each in jobs) if jobs else {}
    return [each for each in jobs if (state := known.get(each.job)) is None or state.has_ended]


def _delete(job: Submitted, run: RunFolder | None) -> None:
    with atomic.lock(run.submitted) if run else contextlib.nullcontext():
        job.clean()
        if run:
            run.slurm_job.unlink(missing_ok=True)
