"""Options that go to a library as they are: held to the library's own dataclass, before anything runs."""

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from lowrung.errors import did_you_mean


def problems(kind: Any, given: Mapping[str, Any], owned: Mapping[str, str], setting: str) -> list[str]:
    """Why options do not fit a library's dataclass, by name and by type.

    What a value may be beyond its type is for the library to say: build the dataclass, and see what it raises.

    Args:
        kind: the library's dataclass, such as `peft.LoraConfig`.
        given: the options by name, with plain values as YAML has them.
        owned: the fields that are not to be given, each with the reason and what to use instead, such as
            ``"lora.r sets it"``; the reason ends a sentence.
        setting: what the user calls these options, such as ``lora.peft``.
    """
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    hints = typing.get_type_hints(kind)
    found = []
    for name, value in given.items():
        if name in owned:
            found.append(f"{setting}.{name} must be left out: {owned[name]}.")
        elif name not in names:
            free = [known for known in names if known not in owned]
            found.append(f"{setting}.{name} is not a field of {_title(kind)}.{did_you_mean(str(name), free)}")
        else:
            found += _misfits(value, hints[name], f"{setting}.{name}")
    return found


def arguments(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The same options as the dataclass takes them: tuples and dataclasses where it has such.

    Args:
        kind: the library's dataclass.
        given: options without `problems`.
    """
    hints = typing.get_type_hints(kind)
    return {name: _read(value, hints[name]) for name, value in given.items()}


def _title(kind: Any) -> str:
    """A dataclass with its package and version, such as ``SFTConfig (trl 1.16.0)``."""
    package = kind.__module__.split(".", maxsplit=1)[0]
    version = getattr(sys.modules[package], "__version__", "")
    return f"{kind.__name__} ({package} {version})" if version else str(kind.__name__)


def _misfits(value: Any, hint: Any, name: str) -> Iterator[str]:
    kinds = _alternatives(hint)
    nested = next((kind for kind in kinds if isinstance(value, Mapping) and dataclasses.is_dataclass(kind)), None)
    if nested is not None:
        yield from problems(nested, value, {}, name)
        return
    try:
        _read(value, typing.Union[tuple(kinds)])  # noqa: UP007  (of kinds that are only known here)
    except ValidationError:
        words = list(dict.fromkeys(_words(kind) for kind in kinds))
        choices = [str(choice) for kind in kinds for choice in _choices(kind)]
        yield f"{name} must be {' or '.join(words)}, but is {_shown(value)}.{did_you_mean(str(value), choices)}"


def _read(value: Any, hint: Any) -> Any:
    """A plain value as its type has it, by pydantic's strict rules for JSON, where a list may stand for a tuple.

    Raises:
        ValidationError: when it does not fit.
    """
    return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)


def _alternatives(hint: Any) -> list[Any]:
    """What a union is of, without a text beside an enum and a mapping beside a dataclass, which only spell these."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = list(typing.get_args(hint)) if is_union else [hint]
    spellings: list[Any] = []
    if any(isinstance(kind, type) and issubclass(kind, Enum) for kind in kinds):
        spellings.append(str)
    if any(dataclasses.is_dataclass(kind) for kind in kinds):
        spellings.append(dict)
    return [kind for kind in kinds if (typing.get_origin(kind) or kind) not in spellings]


def _choices(kind: Any) -> Sequence[Any]:
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    return [choice.value for choice in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
    dict: "a mapping",
}


def _words(kind: Any) -> str:
    """A type in words."""
    if choices := _choices(kind):
        return f"one of {', '.join(map(str, choices))}"
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (list, set, tuple):
        return f"a list of {' or '.join(map(_many, _alternatives(inner[0])))}" if inner else "a list"
    if dataclasses.is_dataclass(origin):
        return f"a mapping of {', '.join(field.name for field in dataclasses.fields(origin))}"
    return WORDS.get(origin, str(getattr(origin, "__name__", origin)))


def _many(kind: Any) -> str:
    return {int: "whole numbers", float: "numbers", str: "texts", dict: "mappings"}.get(kind, _words(kind))


def _shown(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
