"""The folders that lowrung writes in: whether they can be written, their room, and whether file locks hold there."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from lowrung.checks.finding import Check, Finding, note, ok, wrong
from lowrung.store import disk, layout

LITTLE = 2 * 2**30
"""Bytes. The 135M model takes 0.6 GB in the cache, and each of its runs 20 MB."""

SECONDS = 30.0
"""The longest that a folder's check may take: the disk of a server that is gone hangs for ever."""

_TRY = (
    "import sys; from filelock import FileLock, Timeout\n"
    "try:\n    FileLock(sys.argv[1]).acquire(timeout=0)\n"
    "except Timeout:\n    print('held')\n"
)


def checks(here: Path) -> list[Check]:
    """The store of ``here``, the cache, and the folder for temporary files."""
    remedy = "Its disk hangs: see whether the server that it is on can be reached, or name another folder."
    return [
        Check("store", lambda: folder("store", here / "runs"), SECONDS, remedy),
        Check("cache", lambda: folder("cache", layout.cache_folder()), SECONDS, remedy),
        Check("temporary files", lambda: folder("temporary files", Path(tempfile.gettempdir())), SECONDS, remedy),
    ]


def folder(name: str, path: Path) -> Iterator[Finding]:
    """A folder, which need not exist yet."""
    if problems := disk.unwritable(name, path):
        yield wrong(name, problems[0], "Correct its rights, or name another folder.")
        return
    standing = disk.nearest(path)
    free = shutil.disk_usage(standing).free
    found = f"{path}, {free / 2**30:.1f} GiB free"
    if problem := lock_problem(standing):
        yield wrong(name, f"{found}; {problem}", "Use a local disk, or mount it with locks (NFS: without `nolock`).")
    elif free < LITTLE:
        yield note(name, found, "Free some space, or name another disk.")
    else:
        yield ok(name, f"{found}, file locks work")


def lock_problem(standing: Path) -> str | None:
    """Why a lock that this process holds does not keep another one out, in words; None where it does."""
    with tempfile.TemporaryDirectory(prefix=".lowrung-doctor-", dir=standing) as made:
        file = str(Path(made) / "lock")
        try:
            with FileLock(file).acquire(timeout=SECONDS):
                command = [sys.executable, "-c", _TRY, file]
                done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except (OSError, NotImplementedError, subprocess.TimeoutExpired) as error:
            return f"file locks fail ({type(error).__name__})"
    if done.stdout.strip() == "held":
        return None
    return "a second process got a lock that was held" if not done.returncode else "file locks fail in a second process"
