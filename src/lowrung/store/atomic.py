"""Files that are either whole or absent, and folders that one process at a time works in."""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from lowrung.errors import FolderInUse

T = TypeVar("T")


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes aside, fsyncs, then swaps in: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private to the user, and results may lie on shared storage.
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, record: Any) -> None:
    """Writes ``record`` as indented JSON; see `write_text`. NaN is refused: JSON has none."""
    write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Deletes what processes that were killed while they wrote a file had written aside. For the only writer there."""
    for aside in folder.glob(".*.*-*"):
        aside.unlink(missing_ok=True)


def make_folder_once(
    path: Path, fill: Callable[[Path], None], is_whole: Callable[[Path], bool] = lambda _: True
) -> None:
    """`make_folder` behind a lock, for several processes that need the same one; one that is there is kept.

    Args:
        path: the folder.
        fill: called with an empty folder, and only where there is none yet.
        is_whole: whether the one that is there can be kept; else it is deleted and made again.
    """
    with lock(path.parent / f".{path.name}.lock", wait=True):
        if path.exists() and not is_whole(path):
            shutil.rmtree(path)
        if not path.exists():
            make_folder(path, fill)


def make_folder(path: Path, fill: Callable[[Path], T]) -> T:
    """Makes a folder whole or not at all: aside, then swapped in.

    Args:
        path: the folder; not there yet, or empty, as it then stays if ``fill`` fails.
        fill: called with an empty folder; what it returns is returned.
    """
    aside = path.with_name(f".{path.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    aside.mkdir(parents=True)
    try:
        filled = fill(aside)
        os.replace(aside, path)  # POSIX: an empty folder is replaced
        return filled
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds an advisory lock on ``path`` while the block runs; the system frees it when the process dies.

    Args:
        path: the lock file; it is made when missing and stays behind, since deleting it would race.
        wait: wait for the present holder rather than raise.

    Raises:
        FolderInUse: when another process holds the lock and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, thread_local=False)
    try:
        held.acquire(blocking=wait)
    except Timeout:
        raise FolderInUse(f"Another process works in {path.parent}. Wait for it, or stop it, then try again.") from None
    try:
        yield
    finally:
        held.release()
