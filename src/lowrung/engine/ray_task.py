"""A job as a task of Ray's: what runs on its node, and what its end means to the coordinator."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, TaskCancelledError

from lowrung.engine import node
from lowrung.engine.base import Ended, Exit


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


def end(key: str, ref: Any) -> Ended | Refused:
    """How a job ended; what Ray itself lost has died.

    Args:
        key: the job's.
        ref: Ray's reference of its task, which has ended.
    """
    try:
        ended: Ended | Refused = ray.get(ref)
        return ended
    except TaskCancelledError:
        return Ended(key, Exit.CANCELLED, cause="cancelled")
    except OutOfMemoryError:
        return Ended(key, Exit.OUT_OF_MEMORY, cause="memory of its node ran out, and Ray ended its process")
    except RayTaskError as error:  # of what watches the job
        return Ended(key, Exit.DIED, cause=f"{type(error.cause).__name__}: {error.cause}".splitlines()[0])
    except RayError as error:
        return Ended(key, Exit.DIED, cause=f"Ray lost its process or its node ({type(error).__name__})")
