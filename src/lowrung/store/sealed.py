"""Records of what was computed once, believed only where they are whole and this version of lowrung wrote them."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowrung.store import atomic
from lowrung.version import __version__


def read(path: Path) -> dict[str, Any] | None:
    """The fields of a record; None where it is not there, or not as this version of lowrung wrote it."""
    try:
        written = json.loads(path.read_bytes())
        fields: dict[str, Any] = written["fields"]
        return fields if written["sha256"] == _seal(fields) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # absent, cut off, or something else
        return None


def keep(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes a record; where there is no room, or no right to write, its content is computed again another time.

    Args:
        path: the file.
        fields: what JSON can have. They are read as JSON has them: with lists for tuples, and texts as keys.
    """
    plain = json.loads(json.dumps(fields, allow_nan=False))  # numbers that are keys sort as texts there
    with contextlib.suppress(OSError):
        atomic.write_text(path, json.dumps({"sha256": _seal(plain), "fields": plain}))


def _seal(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{__version__}:{text}".encode()).hexdigest()
