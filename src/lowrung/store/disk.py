"""Disks that refuse to be written, and disks that are full."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lowrung.errors import LowrungError, StoreError, UsageError, first_line

_FULL = ("No space left on device", "database or disk is full", "Disk quota exceeded", "Disc quota exceeded")
"""How Python, Rust (safetensors, tokenizers), Arrow and SQLite say that a disk is full; macOS spells it "Disc"."""

_UNFINISHED = ("iostream error", "PytorchStreamWriter")
"""How ``torch.save`` says that a file could not be written; it does not know why."""

_LITTLE = 1 << 20
"""Bytes. A disk with less room than this is what stopped ``torch.save``."""

LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes of a file's name, and of a path, on Linux's usual file systems; other ones take less."""

_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


def look_again(folder: Path) -> None:
    """Has a network file system ask its server what a folder holds.

    NFS believes for up to a minute that a file is not there which was not there before. Changing the folder's mode, to
    what it is, ends that.
    """
    with contextlib.suppress(OSError):  # it may be gone, or someone else's
        folder.chmod(stat.S_IMODE(folder.stat().st_mode))


def nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(above for above in (folder.absolute(), *folder.absolute().parents) if above.is_dir())


def remove_empty(folder: Path, existing: Path) -> None:
    """Deletes a folder, and those above it up to one that was there before; what is not empty stays."""
    with contextlib.suppress(OSError):
        while folder != existing:
            folder.rmdir()
            folder = folder.parent


def unwritable(setting: str, folder: Path) -> list[str]:
    """Why nothing can be written in a folder, which need not exist yet, as problems for the user.

    A file without a name is made to find out, and nothing of it is left. Permissions alone do not show it: a server's
    disk may refuse root, and a disk may have become read-only.

    Args:
        setting: what names the folder, in the user's spelling.
        folder: the folder.
    """
    folder = folder.absolute()
    standing = next(above for above in (folder, *folder.parents) if os.path.lexists(above))
    reason = _why_unwritable(standing) if standing.is_dir() else "is not a folder"
    if reason is None:
        return []
    return [
        f"{setting} must be where files can be written, but {standing} {reason}. Correct that, or name another folder."
    ]


def _why_unwritable(folder: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"cannot be written ({error.strerror})"


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error, or what it was raised from, says that a disk is full.

    Args:
        error: as it was raised.
        folder: what was being written; looked at where the error gives no reason.
    """
    text = "\n".join(str(link) for link in _chain(error))
    if any(known in text for known in _UNFINISHED):
        return shutil.disk_usage(folder).free < _LITTLE
    return any(known in text for known in _FULL)


def in_words(error: BaseException) -> LowrungError | None:
    """The error for the user where a disk is full, or a file cannot be used or be named so; else None."""
    if is_full(error, Path.cwd()):
        return no_space(error)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG and error.filename:
        return _too_long(error)
    if isinstance(error, OSError) and error.errno in _UNUSABLE and error.filename:
        return UsageError(
            f"{error.filename} cannot be used: {error.strerror}. hydra.run.dir (one run), hydra.sweep.dir (-m) and"
            " store say where results go: name other folders, or correct that one."
        )
    return None


def _too_long(error: OSError) -> UsageError:
    """The error for the user where a name is too long for a file, or all names on the way to it together."""
    path = Path(str(error.filename))
    longest = max(path.parts, key=lambda name: len(os.fsencode(name)), default="")
    size, total = len(os.fsencode(longest)), len(os.fsencode(path))
    if size <= LONGEST_NAME and total > LONGEST_PATH:
        return UsageError(
            f"A path must be one that the system takes, of {LONGEST_PATH:,} bytes or so, but one that begins with"
            f" {str(path)[:40]!r} has {total:,} bytes. Give a shorter one."
        )
    return UsageError(
        f"A name must be one that a file can have, of {LONGEST_NAME} bytes or so, but one that begins with"
        f" {longest[:40]!r} has {size} bytes. Give a shorter one."
    )


def no_space(error: BaseException) -> StoreError:
    """The error for the user where a disk is full."""
    return StoreError(
        f"There is no space left on a disk ({first_line(error)}). Free some space; the same command then goes on."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
