"""Single values of YAML files that a sweep leaves, without the rest: a study's whole config takes 2 ms to read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: a tenth of the time


def value(file: Path, *keys: str) -> str | None:
    """The text at these keys, one within the other; None where there is none, or the file cannot be read so far."""
    try:
        with file.open("rb") as opened:
            events = yaml.parse(opened, LOADER)
            start = next(event for event in events if isinstance(event, yaml.NodeEvent))
            return _within(start, events, keys)
    except (OSError, yaml.YAMLError, StopIteration):
        return None


def _within(node: Any, events: Iterator[Any], keys: Sequence[str]) -> str | None:
    """The text at these keys below a node that has just begun."""
    if not keys:
        return str(node.value) if isinstance(node, yaml.ScalarEvent) else None
    if not isinstance(node, yaml.MappingStartEvent):
        return None
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            break
        if getattr(key, "value", None) == keys[0]:
            return _within(next(events), events, keys[1:])
        _skip(key, events)
        _skip(next(events), events)
    return None


def _skip(node: Any, events: Iterator[Any]) -> None:
    """Passes over all of a node that has just begun."""
    depth = int(isinstance(node, yaml.CollectionStartEvent))
    while depth:
        event = next(events)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
