"""Which GPUs there are, found without asking CUDA: a process must not touch it before it forks."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from lowrung.engine.assumed import MACHINE
from lowrung.errors import EngineError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable that says which GPUs CUDA shows to a process."""


def visible() -> list[str]:
    """The GPUs that CUDA shows to this process, by number, UUID or MIG name: what is listed, else all that exist.

    Like CUDA, it reads ``CUDA_VISIBLE_DEVICES`` up to the first entry that is empty or negative. Whether what is listed
    exists is the question of `absent`. Of a machine that is assumed they are all that it has.
    """
    if (assumed := _assumed()) is not None:
        return [str(number) for number in range(assumed)]
    listed = os.environ.get(VISIBLE)
    if listed is None:
        return [str(number) for number in range(count())]
    entries = (entry.strip() for entry in listed.split(","))
    return list(itertools.takewhile(lambda entry: entry and not entry.startswith("-"), entries))


def source() -> str:
    """What says which GPUs there are, with its verb."""
    if _assumed() is not None:
        return "that of hydra.sweeper.plan_for has"
    listed = os.environ.get(VISIBLE)
    return "this machine has" if listed is None else f"{VISIBLE}={listed!r} lists"


_UNCOUNTED = ("dxg", "kfd", "nvgpu", "nvhost-gpu")
"""What is in /dev where there may be GPUs that `count` does not see: WSL, AMD, and two of Jetson's."""


def absent() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` lists and no GPU has; nothing where it is not known how many GPUs there are."""
    existing = count()
    if not existing:
        return visible() if is_countable() else []
    return [gpu for gpu in visible() if gpu.isdecimal() and int(gpu) >= existing]


def problems() -> list[str]:
    """What is wrong with ``CUDA_VISIBLE_DEVICES``, for the user."""
    missing = absent()
    if not missing:
        return []
    reason = "this machine has none. Unset it to run on the CPU."
    if count():
        names = " or ".join(missing)
        reason = f"there is no GPU {names}. CUDA would hide what follows it too. `nvidia-smi -L` shows the numbers."
    return [f"{VISIBLE} must list GPUs that exist, but is {os.environ[VISIBLE]!r}, and {reason}"]


def is_countable() -> bool:
    """Whether a machine where `count` sees no GPU has none."""
    return _assumed() is not None or not any(Path("/dev", name).exists() for name in _UNCOUNTED)


def groups(gpus: Sequence[str], size: int) -> list[Sequence[str]]:
    """The GPUs in whole groups of this size, in their order.

    Raises:
        EngineError: when there are not as many.
    """
    if size < 1:
        raise EngineError(f"`gpus_per_job >= 1` must hold, but got {size}. Without GPUs leave it at 1.")
    if size > max(1, len(gpus)):
        raise EngineError(f"`gpus_per_job={size}` needs as many visible GPUs, but there are {len(gpus)}. Lower it.")
    return [gpus[first : first + size] for first in range(0, len(gpus) - size + 1, size)]


def count() -> int:
    """How many NVIDIA GPUs there are, without asking CUDA, which a process must not touch before it forks."""
    if (assumed := _assumed()) is not None:
        return assumed
    nodes = list(Path("/dev").glob("nvidia[0-9]*"))
    return len(nodes or list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _assumed() -> int | None:
    """How many GPUs the machine has that a plan is made for; None of this one."""
    machine = MACHINE.get()
    return None if machine is None else machine.gpus


def see_one() -> None:
    """Hides all visible GPUs but the first from this process, which has not touched CUDA yet."""
    if len(visible()) > 1:
        os.environ[VISIBLE] = visible()[0]
