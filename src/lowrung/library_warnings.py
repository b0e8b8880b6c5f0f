"""Warnings of libraries: those that mean nothing here are silenced by name, all others are heard and shown.

The settings of Python itself stay: a `DeprecationWarning` is for a library's authors, and Python hides it.
"""

import contextlib
import dataclasses
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO


@dataclasses.dataclass(frozen=True)
class Silenced:
    """A warning that nobody is shown.

    Attributes:
        library: which one warns.
        text: how the warning begins, as a regular expression.
        why: the reason for which it means nothing here.
        logger: the logger that it goes to; empty where it is a warning of Python's.
    """

    library: str
    text: str
    why: str
    logger: str = ""


TABLE = (
    Silenced(
        "transformers",
        r".*gradient_checkpointing.* is deprecated",
        "TRL and PEFT call transformers by names that it means to drop; nothing that a user could mend",
    ),
    Silenced(
        "peft",
        "Using Rank-Stabilized LoRA with rank_pattern/alpha_pattern",
        "it speaks of PEFT's own conversion; lowrung.finetune.lora.adapter.for_original_base handles these patterns",
    ),
    Silenced(
        "peft",
        "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter",
        "lora.modules_to_save asked for a head apart from its embedding; the gate compares it as saved and merged",
    ),
    Silenced(
        "peft",
        "Input and output embeddings are no longer tied after merging",
        "the same: such a head is merged as it was trained, which the gate compares",
    ),
    Silenced(
        "peft",
        r"The following (rank|alpha)_pattern keys did not match",
        "PEFT compares the patterns with modules alone; lowrung.finetune.lora.fit compared them with parameters too",
    ),
    Silenced(
        "peft",
        r"Adapter '\w+': \d+ LoRA tensor\(s\) have invalid shape",
        "it takes the biases of lora.peft.lora_bias for matrices that were not gathered from several processes",
    ),
    Silenced(
        "bitsandbytes",
        "Failed to load CPU gemm_4bit_forward",
        "each process says at its start that a faster kernel is not installed; the results are the same",
        logger="bitsandbytes.backends.cpu.ops",
    ),
    Silenced(
        "bitsandbytes",
        "MatMul8bitLt: inputs will be cast from",
        "each layer says at each step how quantization=int8 computes, which is what was asked for",
        logger="bitsandbytes.autograd._functions",
    ),
    Silenced(
        "optuna",
        r"\S+ is experimental \(supported from|Argument ``\w+`` is an experimental feature",
        "the interface may change in another version of Optuna; lowrung is tested with the installed one",
    ),
    Silenced(
        "matplotlib",
        r"Glyph \d+ \(.*\) missing from font\(s\)",
        "an image has a box for a letter that its font lacks, such as a Chinese one in a study's name; the page has it",
    ),
)
"""All that is silenced in every process."""

LONGEST = 300
"""Characters of a warning that are shown; the run's log has all of it."""

_OWN_HANDLERS = ("transformers", "datasets", "huggingface_hub", "optuna", "mlflow")
"""Libraries whose loggers do not pass their records on to the root logger."""

_OURS = ("lowrung", "hydra")

_LOG = logging.getLogger("lowrung.warned")
"""What Python would print of a warning that is shown in other words, for a log."""


def log_file() -> str | None:
    """The file that this process logs to, as Hydra sets it up for a single run; None where there is none."""
    files = [one.baseFilename for one in logging.root.handlers if isinstance(one, logging.FileHandler)]
    return next((file for file in files if file != os.devnull), None)


def silence() -> None:
    """Silences what `TABLE` names, in this process."""
    for one in TABLE:
        if one.logger:
            logging.getLogger(one.logger).addFilter(_Filter(one.text))
        else:
            warnings.filterwarnings("ignore", message=one.text)


class _Filter(logging.Filter):
    """Drops records that begin with a text; filters of equal texts are one for a logger."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = re.compile(text)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._text.match(record.getMessage()) is None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Filter) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


@dataclasses.dataclass(frozen=True)
class Heard:
    """A warning of a library.

    Attributes:
        library: which one it came from.
        text: what it said, in one line of at most `LONGEST` characters.
    """

    library: str
    text: str

    @property
    def kind(self) -> str:
        """Equal for warnings that differ in numbers alone."""
        return f"{self.library}: {re.sub(r'0x[0-9a-f]+|[0-9]+([.][0-9]+)?', '#', self.text)}"


@contextlib.contextmanager
def heard(tell: Callable[[Heard], None], *, instead: bool = False) -> Iterator[None]:
    """Tells of each warning in the block: Python's, and what libraries log as a warning or worse.

    Args:
        tell: called once for each kind.
        instead: whether nobody else prints them meanwhile; what they print goes to the `log_file`, each in full. Else
            they are printed as before, too.
    """
    kinds: set[str] = set()

    def hear(library: str, text: str) -> None:
        one = Heard(library, _short(text))
        if one.kind not in kinds:
            kinds.add(one.kind)
            tell(one)

    with _warned(hear, instead), _logged(hear, instead):
        yield


@contextlib.contextmanager
def _warned(hear: Callable[[str, str], None], instead: bool) -> Iterator[None]:
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        hear(_library_at(filename), f"{category.__name__}: {message}")
        if instead:
            _LOG.warning("%s:%s: %s: %s", filename, lineno, category.__name__, message)
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _library_at(file: str) -> str:
    """The package that a file is of: a folder in ``site-packages``, or the file itself."""
    parts = Path(file).parts
    after = [parts[index + 1] for index, part in enumerate(parts[:-1]) if part in ("site-packages", "dist-packages")]
    return Path(after[-1]).stem if after else Path(file).name


@contextlib.contextmanager
def _logged(hear: Callable[[str, str], None], instead: bool) -> Iterator[None]:
    known = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    apart = [one for one in known if not one.propagate]
    loggers = dict.fromkeys([logging.root, *apart, *map(logging.getLogger, _OWN_HANDLERS)])
    ears = [_Ear(logger, hear, instead) for logger in loggers]
    try:
        yield
    finally:
        for ear in ears:
            ear.take_off()


class _Ear(logging.Handler):
    """Hears what libraries log; what lowrung and Hydra log is no library's.

    Args:
        logger: whose records are heard.
        hear: called with a library and what it said.
        instead: whether handlers of the logger that print are taken off meanwhile.
    """

    def __init__(self, logger: logging.Logger, hear: Callable[[str, str], None], instead: bool) -> None:
        super().__init__(logging.WARNING)
        self._logger, self._hear, self._instead = logger, hear, instead
        self._silent: list[logging.Handler] = []
        self._silence()
        logger.handlers.insert(0, self)

    def _silence(self) -> None:
        """Takes off what prints. A library that is imported later adds its own, which follows this one."""
        found = [handler for handler in self._logger.handlers if self._instead and _is_on_screen(handler)]
        for handler in found:
            self._logger.removeHandler(handler)
        self._silent += found

    def emit(self, record: logging.LogRecord) -> None:
        self._silence()
        library = record.name.partition(".")[0]
        if library not in _OURS:
            self._hear(library, record.getMessage())
            if self._instead and not self._logger.propagate:  # else a log of the root has it
                _LOG.log(record.levelno, "%s: %s", record.name, record.getMessage())

    def take_off(self) -> None:
        """Leaves the logger as it would be."""
        self._logger.removeHandler(self)
        for handler in self._silent:
            self._logger.addHandler(handler)


def _is_on_screen(handler: Any) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (
        *(sys.stdout, sys.stderr),
        *(sys.__stdout__, sys.__stderr__),
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 4] + " ..."
