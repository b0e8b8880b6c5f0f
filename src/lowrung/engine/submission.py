"""What an engine does with a job before it starts: pickles its task, and prepares its folder."""

import time
from pathlib import Path

import cloudpickle

from lowrung.engine import worker
from lowrung.engine.base import Job
from lowrung.errors import EngineError, FolderInUse
from lowrung.store import atomic, mailbox
from lowrung.store.layout import RunFolder

LOCK_SECONDS = 2.0
"""How long an engine waits for a folder: the orphan of a killed coordinator needs a moment to end."""


def pickled(job: Job) -> bytes:
    """A job's task, by cloudpickle.

    Raises:
        EngineError: when it cannot be pickled.
    """
    try:
        task: bytes = cloudpickle.dumps(job.task)
    except Exception as error:
        raise EngineError(
            f"A task must be picklable, but that of {job.key} is not ({worker.describe(error)}). "
            "Let the task make such objects itself."
        ) from error
    return task


def prepare(folder: Path) -> None:
    """Makes a job's folder and empties its mailbox, while holding its lock to see that nobody else works there.

    Raises:
        FolderInUse: when somebody does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            with atomic.lock(RunFolder(folder).lock):
                return mailbox.clear(folder)
        except FolderInUse:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.05)
