"""Arrays that are computed once of a model and its data, in a file that is believed only where it is whole."""

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrung.store import atomic

Arrays = Mapping[str, NDArray[Any]]

_SEAL = hashlib.sha256().digest_size
"""Bytes at the beginning: the SHA-256 of the rest. NumPy's format checks each array, but not how many there are."""


def arrays(path: Path, compute: Callable[[], Arrays]) -> Arrays:
    """The arrays in a file; they are computed and written where it is not there, or not as it was written.

    Two processes that compute the same at once both write, each a whole file. Without room, or without the right to
    write, they are computed again another time.

    Args:
        path: the file. Its name, or that of its folder, is a hash of all that determines the content: of other
            versions of libraries or code there are other files.
        compute: gives the arrays; none may hold Python objects.
    """
    found = read(path)
    if found is not None:
        return found
    computed = compute()
    keep(path, computed)
    return computed


def keep(path: Path, arrays: Arrays) -> None:
    """Writes the arrays, where there is room and the right to write; see `arrays`."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    content = buffer.getvalue()
    with contextlib.suppress(OSError):
        atomic.write_bytes(path, hashlib.sha256(content).digest() + content)


def read(path: Path) -> Arrays | None:
    """The arrays in a file; None where it is not there, or not as it was written."""
    try:
        written = path.read_bytes()
    except OSError:
        return None
    content = written[_SEAL:]
    if hashlib.sha256(content).digest() != written[:_SEAL]:  # cut off, or with other bytes
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
