"""The errors that lowrung raises on purpose: each states the rule, the value and the remedy."""

import contextlib
import difflib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

SHOW = "HYDRA_FULL_ERROR=1 before the command shows where it was raised."
"""How to see a traceback."""

_NO_MEMORY = "OutOfMemoryError"
"""torch's own, by its name: to import torch takes 1.6 s."""
_NO_MEMORY_WORDS = (
    "out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # no room for its workspace, on a card that others have filled
)  # fmt: skip


class LowrungError(Exception):
    """Base of every error that lowrung raises for its user; the command line prints no traceback."""


class UsageError(LowrungError):
    """What was asked for cannot be done as asked. The command ends with exit code 2.

    Attributes:
        problems: every problem that was found, one sentence or two each, in the user's spelling
            (``lora.r``) and in the order in which they were found.
    """

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class StoreError(LowrungError):
    """A results folder holds something that lowrung did not write, or cannot be read or locked."""


class FolderInUse(StoreError):  # noqa: N818  (it names a state)
    """Another process, or another job, works in a folder."""


class InputError(LowrungError):
    """A library cannot use a part of what it was given; see `blaming`. The command ends with exit code 1."""


class EngineError(LowrungError):
    """An engine was used outside its contract, or cannot run anything at all."""


class RunFailed(LowrungError):  # noqa: N818  (it names an end; exit code 1)
    """A run or a sweep did not end as it should. The results that there are have been kept.

    Attributes:
        results: those results: of a sweep all trials, of a single run how it ended.
    """

    def __init__(self, message: str, results: Any = None) -> None:
        super().__init__(message)
        self.results = results


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another signal to end, has ended what was under way; the same command goes on from there.

    Attributes:
        exit_code: of the process: 128 and the signal's number, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextlib.contextmanager
def blaming(part: str, remedy: str = "") -> Iterator[None]:
    """Turns whatever a library raises in the block into one sentence about the part of the input that it worked on.

    Errors that are for the user already pass, and so does a reader of our output that has gone.

    Args:
        part: what is to blame, such as ``the adapter in FOLDER``.
        remedy: what to do about it, a sentence.

    Raises:
        InputError: where a library raised anything.
    """
    try:
        yield
    except (LowrungError, BrokenPipeError):
        raise
    except Exception as error:
        what = "needs more memory than there is" if is_out_of_memory(error) else "cannot be used"
        raise InputError(" ".join(filter(None, (f"{part} {what} ({in_short(error)}).", remedy, SHOW)))) from error


def in_short(error: BaseException) -> str:
    """An error in one line: its kind, and what it says."""
    kind, text = type(error).__name__, said(error)
    return kind if text == kind else f"{kind}: {text}"


def said(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return textwrap.shorten(str(error), 300, placeholder=" …") or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(". ")


def some(names: Sequence[str], shown: int = 4) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, a GPU's or the machine's."""
    is_such = isinstance(error, MemoryError) or type(error).__name__ == _NO_MEMORY
    return is_such or any(words in str(error) for words in _NO_MEMORY_WORDS)


def install(extra: str) -> str:
    """What to type where the packages of one of lowrung's extras are missing."""
    checkout = f".venv/bin/pip install -c constraints.txt -e '.[{extra}]'"
    return f"Run `{checkout}`, or without a checkout `pip install 'lowrung[{extra}]'`."


def did_you_mean(value: str, choices: Sequence[str]) -> str:
    """What was meant, as the end of a message; empty where nothing comes close."""
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
