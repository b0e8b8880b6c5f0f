"""``python process.py RECORD COMMAND ...``: runs a command, and writes down what it and all its descendants took.

The descendants count too where their parents do not wait for them, as jobs of a fork server: on Linux this process
adopts them. Elsewhere those are missing, and so is the memory of the whole tree.
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

SAMPLE_SECONDS = 0.5
"""Between two readings of the tree's memory; one reading takes a few milliseconds."""


def main() -> None:
    """Runs the command and exits with its code."""
    record, *command = sys.argv[1:]
    is_linux = sys.platform == "linux"
    if is_linux:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began, started = time.time(), time.perf_counter()
    process = subprocess.Popen(command)
    over = threading.Event()
    peaks = [0]
    watch = threading.Thread(target=_watch, args=(over, peaks), daemon=True)
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
        "peak_bytes": peaks[0] or None,
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


def _watch(over: threading.Event, peaks: list[int]) -> None:
    while PROC.is_dir() and not over.wait(SAMPLE_SECONDS):
        peaks[0] = max(peaks[0], _held())


def _held() -> int:
    """Bytes that this process's descendants hold, each shared page counted once."""
    children: dict[int, list[int]] = {}
    for file in PROC.glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has ended
            continue
        children.setdefault(parent, []).append(int(file.parent.name))
    held, found = 0, list(children.get(os.getpid(), ()))
    while found:
        number = found.pop()
        found += children.get(number, ())
        held += _share(number)
    return held


def _share(number: int) -> int:
    """The proportional set size of a process; 0 where it has ended."""
    try:
        lines = (PROC / str(number) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
