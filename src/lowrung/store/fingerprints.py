"""SHA-256 of files, computed once: a digest counts while the file is the one that was read, as far as its disk knows.

A file that has the same size, inode, and times of its content and of its inode was not written since. (`os.utime` puts
the first of these times back, and moves the second.) Where one of them differs, or was so young when the file was read
that a later change might have the same, the content decides: it is read again.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from lowrung.store import sealed

YOUNG = 2_000_000_000
"""Nanoseconds between the last change of a file and its reading below which its times prove nothing.

Disks count in steps of up to 2 s (FAT); ext4 and XFS in those of the kernel's clock, 4 ms.
"""

Entry = list[int | str]
"""The size, the two times, the inode, when it was read, and the SHA-256."""


def sha256(files: Iterable[Path], records: Path | None) -> dict[str, str]:
    """The SHA-256 of each file, by its path.

    Args:
        files: regular files; links are followed.
        records: where digests are kept, a record for each folder of files. Without it, without room, or without the
            right to write there, they are computed each time.

    Raises:
        OSError: when a file is not there or cannot be read.
    """
    found: dict[str, str] = {}
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file)
    for folder, within in by_folder.items():
        record = records and records / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.json"
        known = (record and sealed.read(record)) or {}
        entries = {file.name: _entry(file, known.get(file.name)) for file in within}
        found |= {str(file): str(entries[file.name][-1]) for file in within}
        if record and any(known.get(name) != entry for name, entry in entries.items()):
            sealed.keep(record, {**known, **entries})
    return found


def _entry(file: Path, known: Entry | None) -> Entry:
    """What is known of a file, or what it is now found to be; as it was before it was read, so a change shows."""
    state = _state(file)
    if known and known[:4] == state and max(int(known[1]), int(known[2])) < int(known[4]) - YOUNG:
        return known
    now = time.time_ns()
    with file.open("rb") as stream:
        return [*state, now, hashlib.file_digest(stream, "sha256").hexdigest()]


def _state(file: Path) -> Entry:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
