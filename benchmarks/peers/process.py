"""``python process.py RECORD COMMAND ...``: runs a command, and writes down what it and all its descendants took.

The descendants count too where their parents do not wait for them, as jobs of a fork server: on Linux this process
adopts them. Elsewhere those are missing, and so are what is read while the command runs: the memory of all processes
together, and the CPU time by the clock, from which the CPU time of each part of a sweep follows.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

PROC = Path("/proc")

SAMPLE_SECONDS = 1.0
"""Between two readings of the tree; one takes 45 ms of CPU time where a process holds 3 GB."""

Reading = tuple[float, float, int]
"""Seconds since 1970, the CPU seconds of all descendants until then, and the bytes that they hold."""


def main() -> None:
    """Runs the command and exits with its code."""
    record, *command = sys.argv[1:]
    is_linux = sys.platform == "linux"
    if is_linux:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began, started = time.time(), time.perf_counter()
    process = subprocess.Popen(command)
    over = threading.Event()
    readings: list[Reading] = []
    watch = threading.Thread(target=_watch, args=(over, readings), daemon=True)
    watch.start()
    code = process.wait()
    wall = time.perf_counter() - started
    _wait_for_all()
    over.set()
    watch.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {
        "began": began,
        "wall_seconds": wall,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes_of_a_process": used.ru_maxrss * (1024 if is_linux else 1),  # macOS counts bytes
        "peak_bytes": max((held for _, _, held in readings), default=None),
        "cpu_by_time": [(moment, cpu) for moment, cpu, _ in readings],
    }
    Path(record).write_text(json.dumps(measured), encoding="utf-8")
    sys.exit(code)


def _wait_for_all() -> None:
    """Returns when the last descendant has ended."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def _watch(over: threading.Event, readings: list[Reading]) -> None:
    while PROC.is_dir() and not over.wait(SAMPLE_SECONDS):
        readings.append(_read())


def _read() -> Reading:
    """Reads /proc; each page that is shared counts once, and a process that has ended counts with who waited for it."""
    children: dict[int, list[int]] = {}
    cpu: dict[int, tuple[int, int]] = {}
    for file in PROC.glob("[0-9]*/stat"):
        try:
            fields = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        number = int(file.parent.name)
        children.setdefault(int(fields[1]), []).append(number)
        user, system, ended_user, ended_system = map(int, fields[11:15])
        cpu[number] = (user + system, ended_user + ended_system)
    own = os.getpid()
    ticks, held, found = cpu[own][1], 0, list(children.get(own, ()))
    while found:
        number = found.pop()
        found += children.get(number, ())
        ticks += sum(cpu[number])
        held += _share(number)
    return time.time(), ticks / os.sysconf("SC_CLK_TCK"), held


def _share(number: int) -> int:
    """The proportional set size of a process; 0 where it has ended."""
    try:
        lines = (PROC / str(number) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
