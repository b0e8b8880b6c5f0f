"""How much memory the runs of this machine share, asked without touching CUDA."""

import contextlib
import dataclasses
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lowrung.engine import gpus
from lowrung.engine.assumed import MACHINE

ROOT = Path("/")
"""What /proc and /sys are read below."""

SECONDS = 10.0
"""The longest that ``nvidia-smi`` may take: a driver that hangs must not hang a plan."""

CONTEXT = 0.7e9
"""Bytes that CUDA takes of a card for each process, beside what is allocated there: 0.66 GiB on an H200 (CUDA 13.0)."""


@dataclasses.dataclass(frozen=True)
class Room:
    """The memory of one device.

    Attributes:
        total: bytes, or what of them this process may use.
        free: bytes that nothing uses now; None where that is not known.
        name: what it is, in words: ``main memory``.
        context: bytes that each process takes of it beside what it allocates.
    """

    total: float
    free: float | None
    name: str
    context: float = 0.0


def of_device(kind: str) -> Room | None:
    """Main memory for ``cpu``, else that of the smallest visible GPU; None where it is not known."""
    return main() if kind == "cpu" else of_gpu()


def main(root: Path = ROOT) -> Room | None:
    """Main memory, or what a control group leaves of it; None where the system does not say."""
    if (machine := MACHINE.get()) is not None and machine.memory is not None:
        return Room(machine.memory, None, "main memory")
    lines: dict[str, str] = {}
    with contextlib.suppress(OSError):
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
    if "MemTotal" not in lines:
        return _of_system() if root == ROOT else None
    total = _kibibytes(lines["MemTotal"])
    free = _kibibytes(lines.get("MemAvailable", lines.get("MemFree", "0")))
    name = "main memory"
    for limit, used in _groups(root):
        if limit < total:
            total, name = limit, "memory that the control group allows"
        free = min(free, max(limit - used, 0.0))
    return Room(total, free, name)


class Kills:
    """Processes that the system has ended since memory had run out: each explains one process's end.

    The system counts them, and does not say which they were. So one that somebody ends by SIGKILL is taken for one of
    them where another process was ended so meanwhile, and no end of lowrung's own explains that.

    Args:
        root: what /proc and /sys are read below.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._explaining: set[int] = set()
        """The numbers of those that explain an end, the system's first one being 1."""

    @property
    def count(self) -> int:
        """How many there were so far.

        Those of the own control group count, whichever limit was passed; where the system counts none for it, as in the
        root group, all count. 0 where it counts none at all, as on macOS.
        """
        return next(self._counts(), 0)

    def explain(self, since: int) -> bool:
        """Whether a process was ended so that began when there were this many; the first of them explains its end.

        So the later ones are left for processes that began later.
        """
        own = next((one for one in range(since + 1, self.count + 1) if one not in self._explaining), None)
        if own is not None:
            self._explaining.add(own)
        return own is not None

    def _counts(self) -> Iterator[int]:
        files = [folder / names[3] for folder, names in _folders(self._root)]
        for file in [*files, self._root / "proc/vmstat"]:
            with contextlib.suppress(OSError):
                if found := re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE):
                    yield int(found[1])


KILLS = Kills()
"""Those of this machine, as far as this process knows of them."""


def _kibibytes(text: str) -> float:
    return float(text.split()[0]) * 1024


def _of_system() -> Room | None:
    """Where there is no /proc, as on macOS."""
    try:
        return Room(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"), None, "main memory")
    except (ValueError, OSError, AttributeError):
        return None


def _groups(root: Path) -> Iterator[tuple[float, float]]:
    """The limit of each control group that this process is in, and what is used of it but for files that can go."""
    for folder, (limit, used, cached, _) in _folders(root):
        try:
            most = float((folder / limit).read_text())  # "max" is no limit
            held = float((folder / used).read_text())
        except (OSError, ValueError):
            continue
        stat: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            stat = dict(line.split(None, 1) for line in (folder / "memory.stat").read_text().splitlines())
        yield most, held - float(stat.get(cached, 0))


_V2 = ("memory.max", "memory.current", "inactive_file", "memory.events")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control")


def _folders(root: Path) -> Iterator[tuple[Path, tuple[str, str, str, str]]]:
    """The folders of the control groups, the own one and those above it. In a container the own one is the root."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if number == "0" and not controllers:
            top, names = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        own = top / path.lstrip("/")
        for folder in dict.fromkeys([own, *own.parents]):
            if folder.is_relative_to(top) and ".." not in folder.parts:
                yield folder, names


def of_gpu() -> Room | None:
    """The memory of the smallest visible GPU; None where nvidia-smi does not say."""
    if (machine := MACHINE.get()) is not None:
        return None if machine.memory is None else Room(machine.memory, None, "GPU memory", CONTEXT)
    found = [room for gpu in gpus.visible() if (room := _of_gpu(gpu))]
    return min(found, key=lambda room: room.total) if found else None


def _of_gpu(gpu: str) -> Room | None:
    if gpu.startswith("MIG-"):
        return _of_slice(gpu)
    answer = _asked(f"--id={gpu}", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits")
    try:
        name, total, used = answer.strip().rsplit(",", 2)
        there, taken = float(total) * 2**20, float(used) * 2**20
        return Room(there, there - taken, f"GPU memory ({name.strip()})", CONTEXT)
    except ValueError:  # "[N/A]", on machines whose GPU shares main memory
        return None


def _of_slice(name: str) -> Room | None:
    """A part of a GPU (MIG): nvidia-smi lists it by its profile, such as ``MIG 1g.10gb``."""
    found = re.search(rf"MIG \S*?\.(\d+)gb.*{re.escape(name)}", _asked("-L"))
    return Room(float(found[1]) * 2**30, None, "memory of the GPU's part", CONTEXT) if found else None


def _asked(*arguments: str) -> str:
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
