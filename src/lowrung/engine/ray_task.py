"""A job as a task of Ray's: what runs on its node, and what its end means to the coordinator."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, TaskCancelledError

from lowrung.engine import node
from lowrung.engine.base import Ended, Exit
from lowrung.errors import FolderInUse
from lowrung.store import atomic
from lowrung.store.layout import RunFolder

GONE_SECONDS = 5.0
"""How long a job's process may outlive the one that watches it, which Ray has killed: it notices, and ends itself."""


@dataclasses.dataclass(frozen=True)
class Refused:
    """What a node answers that cannot run jobs of this coordinator.

    Attributes:
        node: Ray's name of it.
        problems: why it cannot.
    """

    node: str
    problems: Sequence[str]


def run(request: node.Request) -> Ended | Refused:
    """Runs a job to its end where this node can; called on the node."""
    if problems := request.needs.problems():
        return Refused(ray.get_runtime_context().get_node_id(), problems)
    return node.work(request)


def end(key: str, folder: Path, ref: Any, gone_by: float) -> Ended | Refused:
    """How a job ended; what Ray itself lost has died. Nobody works in its folder any more, as far as can be seen.

    Args:
        key: the job's.
        folder: the job's.
        ref: Ray's reference of its task, which has ended.
        gone_by: until when to wait for its process, by the monotonic clock; see `GONE_SECONDS`.
    """
    ended: Ended | Refused
    try:
        ended = ray.get(ref)
        return ended
    except TaskCancelledError:
        ended = Ended(key, Exit.CANCELLED, cause="cancelled")
    except OutOfMemoryError:
        ended = Ended(key, Exit.OUT_OF_MEMORY, cause="memory of its node ran out, and Ray ended its process")
    except RayTaskError as error:  # of what watches the job
        ended = Ended(key, Exit.DIED, cause=f"{type(error.cause).__name__}: {error.cause}".splitlines()[0])
    except RayError as error:
        ended = Ended(key, Exit.DIED, cause=f"Ray lost its process or its node ({type(error).__name__})")
    _await_free(folder, gone_by)
    return ended


def _await_free(folder: Path, deadline: float) -> None:
    """Waits until a job's process has left its folder; one on a node that is lost may never be seen to do so."""
    while folder.is_dir() and time.monotonic() < deadline:
        with contextlib.suppress(FolderInUse), atomic.lock(RunFolder(folder).lock):
            return
        time.sleep(0.02)
