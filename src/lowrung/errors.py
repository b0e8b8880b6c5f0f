"""The errors that lowrung raises on purpose: each states the rule, the value and the remedy."""

import difflib
from collections.abc import Sequence
from typing import Any


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


def install(extra: str) -> str:
    """What to type where the packages of one of lowrung's extras are missing."""
    checkout = f".venv/bin/pip install -c constraints.txt -e '.[{extra}]'"
    return f"Run `{checkout}`, or without a checkout `pip install 'lowrung[{extra}]'`."


def did_you_mean(value: str, choices: Sequence[str]) -> str:
    """What was meant, as the end of a message; empty where nothing comes close."""
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
