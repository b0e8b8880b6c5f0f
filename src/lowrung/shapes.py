"""The shapes of what commands print with ``--json``, in docs/programs.md: ``make docs``."""

import argparse
import dataclasses
import enum
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lowrung.__main__ import parser
from lowrung.config.reference import attributes, summary
from lowrung.store import atomic
from lowrung.store.layout import ROOT

PAGE = ROOT / "docs" / "programs.md"
"""The page that the shapes are written into."""

START, END = "<!-- shapes: made by `make docs` from the commands' dataclasses -->", "<!-- /shapes -->"


def page() -> str:
    """The page, with the shapes as they should be now."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    sections = [f"### lowrung {name}\n\n{_command(kinds)}" for name, kinds in results(parser()).items() if kinds]
    return f"{before}{START}\n\n" + "\n".join(sections) + f"\n{END}" + rest.split(END)[1]


def results(parser: argparse.ArgumentParser) -> dict[str, list[type]]:
    """The dataclasses that each command returns, or answers with and goes on; none where it does not say."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: list(_parts(_answer(each))) for name, each in commands.choices.items()}


def _answer(command: argparse.ArgumentParser) -> Any:
    """What is annotated to be returned, unless ``answer`` is set beside the command."""
    function = command.get_default("command")
    return command.get_default("answer") or (typing.get_type_hints(function).get("return") if function else None)


def _parts(hint: Any) -> Iterator[type]:
    """The dataclasses in an annotation, in order."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for inner in typing.get_args(hint):
        yield from _parts(inner)


def _command(kinds: list[type]) -> str:
    """The fields of a command's document, and those of the dataclasses in it."""
    texts = [_table(kinds)]
    done = list(kinds)
    for kind in done:
        inner = [one for hint in typing.get_type_hints(kind).values() for one in _parts(hint) if one not in done]
        done += dict.fromkeys(inner)
        texts += [f"`{one.__name__}`: {summary(one)}\n\n{_table([one])}" for one in dict.fromkeys(inner)]
    return "\n".join(texts)


def _table(kinds: list[type]) -> str:
    lines = ["| field | type | |", "|---|---|---|"]
    for kind in kinds:
        says, hints = attributes(kind), typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            cells = (f"`{field.name}`", type_name(hints[field.name]), says[field.name])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", type(None): "null"}
"""Types as programs that read JSON know them."""


def type_name(hint: Any) -> str:
    """A type in JSON's words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return "any"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(type_name, inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"object of {type_name(inner[1])}"
    if origin is not None:
        return f"list of {type_name(inner[0])}"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"`{hint.__name__}`"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "text"
    return NAMES.get(hint) or re.sub(r"(?<!^)(?=[A-Z])", " ", hint.__name__).lower()


def main() -> None:
    """Writes the shapes into the page."""
    atomic.write_text(PAGE, page())
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
