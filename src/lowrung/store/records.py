"""Records: JSON objects on the disk that one version of lowrung writes and another may read."""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lowrung.errors import StoreError
from lowrung.store.layout import JobFolder, RunFolder
from lowrung.version import __version__

_T = TypeVar("_T")

_ENVIRONMENT = RunFolder(Path()).environment
_OF_JOB = JobFolder(Path()).run / _ENVIRONMENT
_WRITERS = (_ENVIRONMENT, _OF_JOB, "*" / _OF_JOB, "*/*" / _OF_JOB)
"""Which file says what version wrote a record, from the record's folder: a run's, a job's, or a study's."""


class Record(dict[str, Any]):
    """A JSON object, for which a field that it lacks is an error for the user rather than a KeyError.

    Args:
        fields: the object's.
        path: the file that it is from; None for a copy, such as `dataclasses.asdict` makes.
    """

    def __init__(self, fields: Mapping[str, Any] | Iterable[tuple[str, Any]], path: Path | None = None) -> None:
        super().__init__(fields)
        self._path = path

    def __missing__(self, name: str) -> Any:
        """Raises the error of `unreadable`."""
        raise self._error(f"must have the field {name!r}, but has only {', '.join(self) or 'none'}", name)

    def _error(self, problem: str, name: str) -> Exception:
        return KeyError(name) if self._path is None else unreadable(self._path, problem)

    def into(self, kind: type[_T]) -> _T:
        """A dataclass with these fields.

        Raises:
            StoreError: when the record lacks a field that has no default, has one that the dataclass lacks, or one of
                another type.
        """
        fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        for name in self:
            if name not in fields:
                raise self._error(f"must have the fields {', '.join(fields)} alone, but has {name!r}", name)
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                self[name]  # raises where it is missing
        for name, value in self.items():
            if not _fits(value, _hints(kind)[name]):  # type: ignore[arg-type]
                raise self._error(f"has another type of {name} than this version knows: {value!r}", name)
        return kind(**self)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a field's type; what a list or an object holds is not looked at."""
    origin = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, kind) for kind in typing.get_args(hint))
    if origin is float:
        origin = (int, float)
    if isinstance(value, bool) and origin not in (Any, bool, object):
        return False
    return origin is Any or not isinstance(origin, type | tuple) or isinstance(value, origin)


def read(path: Path) -> Record:
    """Reads a file that holds one JSON object.

    Raises:
        StoreError: when it holds anything else.
    """
    return parse(path.read_bytes(), path)


def read_list(path: Path) -> list[Record]:
    """Reads a file that holds a list of JSON objects.

    Raises:
        StoreError: when it holds anything else.
    """
    found = _parsed(path.read_bytes(), path)
    if not isinstance(found, list) or not all(isinstance(one, Record) for one in found):
        raise unreadable(path, "must hold a list of JSON objects, but holds something else")
    return found


def parse(text: bytes, path: Path) -> Record:
    """Reads a JSON object; the objects in it are records too.

    Args:
        text: the JSON.
        path: the file that it is from.

    Raises:
        StoreError: when it is anything else.
    """
    found = _parsed(text, path)
    if not isinstance(found, Record):
        raise unreadable(path, "must hold a JSON object, but holds something else")
    return found


def _parsed(text: bytes, path: Path) -> Any:
    try:
        return json.loads(text, object_hook=lambda fields: Record(fields, path))
    except ValueError as error:
        raise StoreError(f"{path} must be JSON, but it is not ({error}). {_remedy(path)}") from error


def unreadable(path: Path, problem: str) -> StoreError:
    """The error for a record that this version cannot use; it names the version that wrote the record.

    Args:
        path: the record's file.
        problem: what the file must hold and what it holds, as the sentence goes on after the file's name.
    """
    writer = _writer(path)
    if writer is None:
        by = f"Another version of lowrung may have written it; this is {__version__}."
    else:
        by = f"lowrung {writer} wrote it, and this is {__version__}."
    return StoreError(f"{path} {problem}. {by} {_remedy(path)}")


def _writer(path: Path) -> str | None:
    """The version of lowrung that wrote a record, where a run's ``environment.json`` is near and says so."""
    for pattern in _WRITERS:
        for file in path.parent.glob(str(pattern)):
            try:
                return str(json.loads(file.read_text(encoding="utf-8"))["lowrung"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return None


def _remedy(path: Path) -> str:
    """What to do about a record that cannot be used: a run is made anew as a whole."""
    run = RunFolder(path.parent)
    what = run.path if run.config.is_file() else path
    return f"Delete {what}, and the command that wrote it starts that part anew."
