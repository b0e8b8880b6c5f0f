"""What is computed once of a model and its data: arrays and records, in files that are believed only where whole."""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrung.store import atomic
from lowrung.version import __version__

Arrays = Mapping[str, NDArray[Any]]


def arrays(path: Path, compute: Callable[[], Arrays]) -> Arrays:
    """The arrays in a file; they are computed and written where it is not there, or not as it was written.

    Each array has a checksum in the file, which is compared as it is read. Two processes that compute the same at once
    both write, each a whole file.

    Args:
        path: the file, ``NAME.npz``. Its name, or that of its folder, is a hash of all that determines the content: of
            other versions of libraries or code there are other files.
        compute: gives the arrays; none may hold Python objects.
    """
    found = _read(path)
    if found is not None:
        return found
    computed = compute()
    buffer = io.BytesIO()
    np.savez(buffer, **computed)  # type: ignore[arg-type]
    atomic.write_bytes(path, buffer.getvalue())
    return computed


def _read(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # absent, cut off, or with other bytes
        return None


def record(path: Path) -> dict[str, Any] | None:
    """The fields of a record; None where it is not there, or not as this version of lowrung wrote it."""
    try:
        written = json.loads(path.read_bytes())
        fields: dict[str, Any] = written["fields"]
        return fields if written["sha256"] == _seal(fields) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # absent, cut off, or something else
        return None


def keep(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes a record; where there is no room for it, or no right to write, it is computed again another time.

    Args:
        path: the file.
        fields: as JSON has them: lists rather than tuples.
    """
    with contextlib.suppress(OSError):
        atomic.write_text(path, json.dumps({"sha256": _seal(fields), "fields": fields}, allow_nan=False))


def _seal(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{__version__}:{text}".encode()).hexdigest()
