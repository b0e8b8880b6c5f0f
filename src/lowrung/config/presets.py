"""The search space of a preset, ``hydra.sweeper.params`` and its like, as overrides."""

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from lowrung.config import grammar, keys
from lowrung.config.schema import Config
from lowrung.errors import UsageError


def overrides(
    params: Mapping[str, Any], resolved: Mapping[str, Any], setting: str = "hydra.sweeper.params"
) -> list[str]:
    """A preset's values as overrides: a text as on the command line, a list of a setting's values as choices.

    Args:
        params: as written: dotted keys, or nested ones.
        resolved: the same, with interpolations resolved in the sweep's config. One that gives several values is taken
            so (``lora.r: ${oc.env:RANKS}``); any other is left to the trials, where it may follow a swept setting.
        setting: where they are written.

    Raises:
        UsageError: when values can be meant in two ways, or cannot be written as an override.
    """
    found, problems = [], []
    values = flat(resolved)
    for key, written in flat(params).items():
        value = values.get(key, written)
        try:
            is_several = _has_interpolation(written) and isinstance(value, str) and grammar.is_sweep(f"{key}={value}")
            found.append(grammar.as_typed(f"{key}={_text(key, value if is_several else written)}"))
        except ValueError as error:
            problems.append(f"{setting}.{key} {error}.")
    if problems:
        raise UsageError(problems)
    return found


def flat(params: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys: a dict below a group holds the group's settings, and one below a setting is the setting's value."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and any(one.startswith(f"{key}.") for one in keys.types(Config)):
            if cut := [str(part) for part, none in value.items() if none is None and grammar.is_number(str(part))]:
                found[key] = _Cut(cut)
            else:
                found |= flat(value, f"{key}.")
        else:
            found[key] = value
    return found


class _Cut(list[str]):
    """Numbers that YAML read as keys of their own: ``{r: 2,4}`` is ``{r: 2, 4: null}``."""


def _has_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _text(key: str, value: Any) -> str:
    """A value as it stands after an override's ``=``.

    Raises:
        ValueError: what is wrong with it, as the sentence goes on after the key.
    """
    if isinstance(value, _Cut):
        raise ValueError(
            f"must be settings with values, but {', '.join(value)} has none: YAML ends a value in braces at the comma."
            f' Write several values with quotes, as in {{r: "2,4"}}, or as a list, as in {{r: [2, 4]}}'
        )
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return _list(key, value)
    return grammar.quote(value)


def _list(key: str, values: Sequence[Any]) -> str:
    """A list of a setting's values as choices; or as one value, where the setting is itself a list."""
    choices, one = ",".join(map(grammar.quote, values)), grammar.quote(values)
    kind = _kind(key)
    has_lists = any(isinstance(value, Sequence) and not isinstance(value, str) for value in values)
    has_texts = any(isinstance(value, str) for value in values)
    if not values or (kind is list and not has_lists):
        return one
    if kind is dict or (kind is Any and has_texts and not has_lists):
        raise ValueError(
            f"may be {len(values)} values or one list. Write '{choices}' for the values, or '{one}' for the list, each"
            " with the quotes"
        )
    return choices


def _kind(key: str) -> Any:
    """list, Any, or dict for a field of a dict, where a list may be a value; None where it cannot be one."""
    kinds, key = keys.types(Config), key.lstrip("+")
    if key not in kinds:
        return dict if any(key.startswith(f"{known}.") and _is_free(kind) for known, kind in kinds.items()) else None
    options = typing.get_args(kinds[key]) if isinstance(kinds[key], types.UnionType) else (kinds[key],)
    if any(typing.get_origin(option) is list for option in options):
        return list
    return Any if Any in options else None


def _is_free(kind: Any) -> bool:
    """Whether a setting is a dict of values of any kind."""
    return kind is Any or (typing.get_origin(kind) is dict and typing.get_args(kind)[1] is Any)
