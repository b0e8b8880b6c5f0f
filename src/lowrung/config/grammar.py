"""Values in the grammar of Hydra's overrides: what lowrung writes into an override is read as what it was."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.grammar.utils import escape_special_characters
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, Quote, QuotedString, Sweep
from hydra.errors import HydraException

from lowrung.config import keys
from lowrung.config.schema import Config


def quote(value: Any) -> str:
    """A value as the text after an override's ``=``: Hydra reads the same value from it, and no sweep.

    Args:
        value: None, a number, a text or a quoted text, or lists and dicts of these. ``${...}`` in a text stays an
            interpolation.

    Raises:
        ValueError: for a dict's key that the grammar has no way to write, and for anything else.
    """
    if value is None:
        return "null"
    if isinstance(value, QuotedString):
        value = value.text
    if isinstance(value, str):
        return value if _reads_as_itself(value) else QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(key)}:{quote(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(quote(one) for one in value) + "]"
    raise ValueError(f"{value!r} cannot be written as an override")


def literal(text: str) -> str:
    """A text that means itself where OmegaConf would find interpolations in it."""
    return re.sub(r"(\\*)\$\{", lambda found: found.group(1) * 2 + r"\${", text)


def as_typed(override: str) -> str:
    """An override as it was meant, with quotes where Hydra would not read it so.

    A text that reads as a number: ``study=1e3`` is no study of the name 1000.0. An interpolation with another one in
    it, which Hydra reads in quotes alone. Any other override stays as it is; so does ``null``.
    """
    name, equals, written = override.partition("=")
    if equals and _is_nested_interpolation(written) and _parsed(written) is _UNREADABLE:
        return f"{name}={quote(written)}"
    if not equals or name.lstrip("+") not in _texts():
        return override
    value = _parsed(written)
    if isinstance(value, ChoiceSweep) and value.simple_form:
        parts = written.split(",")
        if len(parts) == len(value.list):
            return f"{name}=" + ",".join(map(_kept, parts, value.list))
        return override
    return f"{name}={_kept(written, value)}"


def _is_nested_interpolation(text: str) -> bool:
    """Whether a text is one interpolation that holds others: ``${root:${lora.r}}``, not ``${a:${b}},${c}``."""
    if not text.startswith("${") or text.count("${") < 2 or re.search(r"['\"\\]", text):
        return False
    depth, open_until = 0, []
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0 and character == "}":
            open_until.append(index)
    return open_until == [len(text) - 1]


def is_number(text: str) -> bool:
    """Whether Hydra reads a text as a number."""
    value = _parsed(text)
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_sweep(override: str) -> bool:
    """Whether an override has several values; not where it cannot be read."""
    return isinstance(_parsed(override.partition("=")[2]), Sweep | Glob)


def _kept(written: str, value: Any) -> str:
    """A text as it was written, where Hydra reads a number or a truth value that is written otherwise."""
    is_number = isinstance(value, bool | int | float)
    return quote(written.strip()) if is_number and str(value) != written.strip() else written


@functools.cache
def _texts() -> frozenset[str]:
    """The settings that hold a text."""
    return frozenset(key for key, kind in keys.types(Config).items() if kind in (str, str | None))


def _key(key: Any) -> str:
    """A key of a dict, which the grammar does not let be quoted."""
    text = escape_special_characters(key) if isinstance(key, str) else str(key)
    if _parsed(f"{{{text}:0}}") != {key: 0}:
        raise ValueError(f"the key {key!r} cannot be written as an override")
    return text


@functools.lru_cache(maxsize=4096)  # a grid repeats the same few texts, and to read one takes 0.3 ms
def _reads_as_itself(text: str) -> bool:
    """Whether Hydra reads an unquoted text as the text that it is."""
    return re.fullmatch(r"[A-Za-z_$][^'\"\\,\[\]()=\s]*|[\w./+-]+", text) is not None and _parsed(text) == text


def _parsed(text: str) -> Any:
    """What Hydra reads after an override's ``=``; nothing that can be equal to a value where it cannot be read."""
    try:
        override: Override = _parser().parse_override(f"x={text}")
    except (HydraException, ValueError):
        return _UNREADABLE
    return override.value()


_UNREADABLE = object()


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def example(override: str) -> str | None:
    """How an override that cannot be read is written if its value is one text; None where that does not help."""
    name, equals, value = override.partition("=")
    written = quote(value)
    is_key = re.fullmatch(r"[+~]*[A-Za-z_][\w./@-]*", name, re.ASCII) is not None
    return f"{name}={written}" if equals and value and is_key and _parsed(written) == value else None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names, and the values as an override has them."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = _written(value)
    return found


def _written(value: Any) -> str:
    try:
        return quote(value)
    except ValueError:
        return json.dumps(value, sort_keys=True, default=str)
