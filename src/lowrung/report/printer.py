"""What a command answers: text for people, or one JSON document for programs.

A command returns a dataclass: its fields are the JSON, its ``__str__`` is the text. docs/programs.md has the shapes.
"""

import contextlib
import dataclasses
import enum
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from lowrung.errors import UsageError, in_short
from lowrung.version import __version__

SHAPE = 1
"""The version of all shapes: a field that is renamed, removed or means something else raises it; a new one does not."""


class Ended(SystemExit):
    """The end of a command that failed, with what there is to say about it.

    Attributes:
        problems: why, a sentence or two each.
    """

    def __init__(self, code: int, problems: Sequence[str]) -> None:
        super().__init__(code)
        self.problems = problems


class Printer:
    """Prints what a command answers.

    With JSON, stdout is kept for the document: whatever else is printed meanwhile, by libraries and child processes
    too, goes to stderr.

    Args:
        command: the command's name.
        as_json: prints JSON rather than text.
    """

    def __init__(self, command: str = "", *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._document: dict[str, Any] = {"lowrung": __version__, "shape": SHAPE, "command": command}
        self._has_shown = False
        self._write: Callable[[str], None] | None = None

    def show(self, result: Any) -> None:
        """Prints a command's result, or keeps it for the document.

        Args:
            result: a dataclass; an iterator of several, which are printed as they come and are one document together;
                or None.
        """
        for part in result if isinstance(result, Iterator) else [result]:
            if part is None:
                continue
            if self.as_json:
                self._document |= plain(part)
            elif text := str(part):
                print("\n" * self._has_shown + text, flush=True)
                self._has_shown = True

    def answer(self, result: Any) -> None:
        """Prints a result now. For a command that goes on after it has answered, such as a server."""
        self.show(result)
        self._finish()

    def _finish(self) -> None:
        if self._write is not None:
            write, self._write = self._write, None
            write(json.dumps(self._document, indent=2, allow_nan=False) + "\n")

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Holds stdout while the command runs, and prints the document at its end, whatever the end is."""
        if not self.as_json:
            yield
            return
        with _stdout_kept() as self._write:
            try:
                yield
            except SystemExit as end:
                if end.code:
                    self._fail(end.code, getattr(end, "problems", []))
                raise
            except Exception as error:  # the user asked for its traceback
                self._fail(1, error.problems if isinstance(error, UsageError) else [in_short(error)])
                raise
            finally:
                self._finish()

    def _fail(self, code: Any, problems: Sequence[str]) -> None:
        self._document["error"] = {"problems": list(problems), "exit_code": code}


def plain(value: Any) -> Any:
    """A value as JSON has it: paths absolute, and numbers that are not finite null."""
    match value:
        case enum.Enum():
            return plain(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Path():
            return str(value.absolute())
        case Mapping():
            return {str(name): plain(inner) for name, inner in value.items()}
        case Set():
            return sorted(map(plain, value))
        case Sequence():
            return [plain(inner) for inner in value]
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return plain(value.item())  # a number of NumPy's or torch's


@contextlib.contextmanager
def _stdout_kept() -> Iterator[Callable[[str], None]]:
    """Gives what writes to stdout, while all else that is meant for stdout goes to stderr."""
    stdout = sys.stdout
    stdout.flush()
    try:
        is_file = stdout.fileno() == 1
    except (OSError, ValueError):  # a notebook's or a test's
        is_file = False
    with contextlib.redirect_stdout(sys.stderr):
        if not is_file:
            yield lambda text: print(text, end="", file=stdout, flush=True)
            return
        kept = os.dup(1)
        os.dup2(2, 1)
        try:
            yield lambda text: _write(kept, text)
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _write(number: int, text: str) -> None:
    with os.fdopen(number, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
