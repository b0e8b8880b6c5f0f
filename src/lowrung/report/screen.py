"""What text is printed on: how wide it is, which characters it has, and whether anybody still reads.

`prepare` is called before the first line; then no character, no closed stream and no reader that left ends a command.
"""

import codecs
import contextlib
import io
import os
import select
import sys
from typing import NoReturn

ASCII = {
    "→": "->",
    "±": "+/-",
    "Δ": "d",
    "‖": "||",
    "\N{MULTIPLICATION SIGN}": "x",
    "…": "~",  # one character: it stands where a line is cut to its width
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{NO-BREAK SPACE}": " ",
}
"""What is printed where the output's encoding lacks a character; any other one becomes its escape, as ``\\u4e2d``."""

READER_GONE = 141
"""The exit code where nobody reads the output any more (``... | head``): that of SIGPIPE, as shells have it."""

_IN_ASCII = "lowrung.in_ascii"


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    failed = error.object[error.start : error.end]
    escaped = (ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in failed)
    return "".join(escaped), error.end


codecs.register_error(_IN_ASCII, _in_ascii)


def prepare() -> None:
    """Opens what of the standard streams is closed, on nothing, and lets both outputs take every character.

    A closed output (``>&-``) would leave its number to the next file that is opened, and C code prints into that.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's takes everything
            stream.reconfigure(errors=_IN_ASCII)


def printable(text: str) -> str:
    """The text as the output's encoding has it: what is set in columns is measured by this."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, _IN_ASCII).decode(encoding)


def width() -> int | None:
    """The columns of the terminal, or ``COLUMNS`` where that is set; None without any: lines then end where they do."""
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns):
        return int(columns)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # ValueError: it was closed
        if sys.stdout.isatty():
            return os.get_terminal_size(sys.stdout.fileno()).columns or None
    return None


def can_redraw() -> bool:
    """Whether lines that were printed can be drawn anew: on a terminal that can move its cursor.

    ``FORCE_COLOR`` does not make a log one, although rich takes it so.
    """
    with contextlib.suppress(ValueError, AttributeError):
        return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return False


def is_reader_gone() -> bool:
    """Whether an output is a pipe that nobody reads: other pipes break too, and those are errors."""
    return any(_is_broken(stream) for stream in (sys.stdout, sys.stderr))


def leave() -> NoReturn:
    """Ends the process without a word, since nobody reads it.

    Raises:
        SystemExit: always, with `READER_GONE`.
    """
    drop_the_rest()
    sys.exit(READER_GONE)


def drop_the_rest() -> None:
    """Drops what an output that cannot be written still holds: Python would fail once more when it flushes it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _is_broken(stream: object) -> bool:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        waiting = select.poll()
        waiting.register(stream.fileno(), 0)  # type: ignore[attr-defined]
        return any(event & select.POLLERR for _, event in waiting.poll(0))
    return False
