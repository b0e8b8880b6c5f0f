"""What every command of lowrung shares: exit codes, and errors printed for people.

Exit codes: 0 all done, 1 a trial failed, 2 bad usage; interrupted by Ctrl-C 130, by SIGTERM 143, by SIGHUP 129;
141 where nobody reads the output any more (``... | head``).
``HYDRA_FULL_ERROR=1`` shows tracebacks.
"""

import atexit
import contextlib
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from lowrung.engine import interrupt
from lowrung.errors import SHOW, InputError, Interrupted, LowrungError, UsageError, in_short, is_out_of_memory
from lowrung.report import screen
from lowrung.report.printer import Ended, Printer
from lowrung.store import disk

FAILED, USAGE, INTERRUPTED = 1, 2, 130

SPINS, FEW_SPINS = "GOMP_SPINCOUNT", "10000"
"""A variable, set before torch is imported, that lets idle OpenMP threads soon sleep rather than spin on.

Beside one other busy process, spinning threads make every operation wait for the scheduler (2 cores, 2000 small
products: 1 s with this, 4 to 29 s without; alone no difference, where OMP_WAIT_POLICY=PASSIVE costs 30%).
"""


def run(command: Callable[[], Any], printer: Printer | None = None) -> None:
    """Runs ``command``, prints what it returns, and ends the process with the exit code that its end calls for.

    Args:
        command: returns what `lowrung.report.printer.Printer.show` takes.
        printer: prints it; by default as text.
    """
    wants_traceback()  # before the next line
    printer = printer or Printer()
    # Hydra would print the first problem alone and exit with 1; with this set it raises, and we say it all.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ.setdefault(SPINS, FEW_SPINS)
    atexit.register(gc.freeze)  # else Python's end walks through all that was imported: 1.2 s after a sweep
    screen.prepare()
    try:
        with printer.open():
            _run(command, printer)
    except OSError as error:  # nobody reads the document, or there is no room for it
        _end(error)


def _run(command: Callable[[], Any], printer: Printer) -> None:
    try:
        try:
            refuse_secrets(sys.argv[1:])
            sys.argv[1:] = _flags_first(sys.argv[1:])
            with interrupt.raised():
                printer.show(command())
        finally:
            sys.stdout.flush()  # here: what cannot be written is an error of the command, not of Python's end
    except Interrupted as interruption:
        name = signal.Signals(interruption.exit_code - 128).name
        raise Ended(interruption.exit_code, [f"The command was interrupted by {name}."]) from None
    except KeyboardInterrupt:
        raise Ended(INTERRUPTED, ["The command was interrupted by Ctrl-C."]) from None
    except Exception as error:
        _end(error)


@contextlib.contextmanager
def ending_on_errors() -> Iterator[None]:
    """Ends the process on an error, in words. For Hydra's task, since Hydra prints lines of its own."""
    try:
        yield
    except Exception as error:
        _end(error)


@functools.cache
def wants_traceback() -> bool:
    """Whether the user set ``HYDRA_FULL_ERROR=1``; asked first before lowrung sets it for Hydra."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def _flags_first(arguments: list[str]) -> list[str]:
    """``lora.r=4,8 -m seed=1`` with ``-m`` in front: Hydra's parser takes overrides on one side of it only."""
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))


def refuse_secrets(arguments: list[str]) -> None:
    """Refuses an address with a password at once: Hydra writes its overrides to disk before it calls us."""
    from lowrung.track.base import check_uri

    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if key == "track.uri" and "://" in value and (problems := check_uri(value.strip("'\""))):
            raise UsageError(problems)


def _end(error: Exception) -> NoReturn:
    """Prints what is known of an error and exits; raises it where the user wants to see its traceback."""
    if isinstance(error, BrokenPipeError) and screen.is_reader_gone():  # `... --help | head`
        screen.leave()
    if wants_traceback():
        raise error
    screen.drop_the_rest()
    if isinstance(error, InputError) and disk.is_full(error, Path.cwd()):
        error = disk.no_space(error.__cause__ or error)
    elif not isinstance(error, LowrungError):
        error = disk.in_words(error) or _unforeseen(error)
    problems = error.problems if isinstance(error, UsageError) else [str(error)]
    with contextlib.suppress(OSError):  # nobody may read that output either; the exit code says it too
        print(_message(problems), file=sys.stderr, flush=True)
    screen.drop_the_rest()
    raise Ended(USAGE if isinstance(error, UsageError) else FAILED, problems)


def _unforeseen(error: Exception) -> LowrungError:
    """What to tell the user of an error that nobody foresaw."""
    what = "needs more memory than there is" if is_out_of_memory(error) else "failed, which was not foreseen"
    return LowrungError(f"This command {what} ({in_short(error)}). {SHOW}")


def _message(problems: list[str]) -> str:
    if len(problems) == 1:
        return f"Error: {problems[0]}"
    return "\n".join([f"{len(problems)} errors:", *(f"  - {problem}" for problem in problems)])
