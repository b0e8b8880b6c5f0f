"""What is computed once of a model and its data: arrays in a file that is believed only where it is whole."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrung.store import atomic

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
