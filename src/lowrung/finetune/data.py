"""The datasets: prompt and completion as chat messages, split into train and eval that never overlap."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import random
import re
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

from datasets import Dataset

from lowrung.errors import UsageError

Pair = tuple[str, str]
"""A prompt and its completion."""


@dataclasses.dataclass(frozen=True)
class Split:
    """What one split of a corpus was, for the record.

    Attributes:
        name: the dataset's name.
        digest: a hash of the split's rows.
        source: where the examples come from, in words.
        context: ``training`` or ``evaluation``.
        rows: how many examples.
    """

    name: str
    digest: str
    source: str
    context: str
    rows: int


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A task's examples.

    Attributes:
        name: the dataset's name.
        source: where the examples come from, in words.
        train: rows of ``prompt`` and ``completion``, each a list of one chat message.
        eval: held-out rows of the same form; no prompt of theirs is among the training rows.
        has_answers: whether a completion is the one right answer, so that exact match means something.
    """

    name: str
    source: str
    train: Dataset
    eval: Dataset
    has_answers: bool

    @property
    def fingerprint(self) -> str:
        """A hash of all rows in their order (16 hex digits)."""
        return hashlib.sha256("/".join(split.digest for split in self.splits).encode()).hexdigest()[:16]

    @property
    def splits(self) -> tuple[Split, ...]:
        """Both splits, for the record."""
        both = (("training", self.train), ("evaluation", self.eval))
        return tuple(Split(self.name, rows_digest(rows), self.source, context, len(rows)) for context, rows in both)


def rows_digest(rows: Dataset) -> str:
    """A hash of the rows in their order (16 hex digits)."""
    text = json.dumps([rows["prompt"][:], rows["completion"][:]], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def load(*, name: str, train_size: int, eval_size: int, seed: int) -> Corpus:
    """Draws a training and a held-out set.

    Args:
        name: ``docstrings`` or ``number_words``.
        train_size: rows to train on.
        eval_size: held-out rows; the same whatever the training size is.
        seed: draws and splits the examples.

    Raises:
        UsageError: when the dataset has fewer examples than are asked for.
    """
    if name == "docstrings":
        pairs, source = _docstrings(), f"docstrings of the standard library of Python {_python_version()}"
    else:
        pairs, source = _number_words(seed, train_size + eval_size), "numbers from 0 to 999,999, by code"
    wanted = train_size + eval_size
    if wanted > len(pairs):
        raise UsageError(
            f"data.train_size + data.eval_size must be at most the {len(pairs)} examples of {name},"
            f" but is {train_size} + {eval_size} = {wanted}. Lower one of them."
        )
    random.Random(seed).shuffle(pairs)
    return Corpus(
        name=name,
        source=source,
        eval=_chat_rows(pairs[:eval_size]),
        train=_chat_rows(pairs[eval_size:wanted]),
        has_answers=name == "number_words",
    )


def _chat_rows(pairs: list[Pair]) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": p}], "completion": [{"role": "assistant", "content": c}]}
            for p, c in pairs
        ]
    )


def _python_version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


# -- the standard library's docstrings ---------------------------------------------------------------------------------

MODULES = """
abc argparse array ast asyncio base64 bisect bz2 calendar cmath cmd code codecs collections collections.abc colorsys
concurrent.futures configparser contextlib contextvars copy copyreg csv ctypes dataclasses datetime decimal difflib dis
email email.header email.message email.mime.text email.parser email.policy email.utils enum errno fileinput filecmp
fnmatch fractions ftplib functools gc getopt getpass gettext glob graphlib gzip hashlib heapq hmac html html.parser
http http.client http.cookiejar http.cookies http.server imaplib importlib importlib.metadata importlib.resources
importlib.util inspect io ipaddress itertools json keyword linecache locale logging logging.config logging.handlers
lzma mailbox marshal math mimetypes mmap multiprocessing multiprocessing.connection multiprocessing.managers
multiprocessing.pool netrc numbers operator os os.path pathlib pdb pickle pickletools pkgutil platform plistlib poplib
posixpath pprint profile pstats py_compile pyclbr pydoc queue quopri random re reprlib runpy sched secrets select
selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3 ssl stat statistics string stringprep
struct subprocess symtable sys sysconfig tabnanny tarfile tempfile textwrap threading timeit token tokenize trace
traceback tracemalloc types typing unicodedata unittest unittest.mock urllib.error urllib.parse urllib.request
urllib.robotparser uuid warnings wave weakref webbrowser wsgiref.handlers wsgiref.headers wsgiref.simple_server
wsgiref.util wsgiref.validate xml.dom xml.dom.minidom xml.dom.pulldom xml.etree.ElementTree xml.sax.handler
xml.sax.saxutils xml.sax.xmlreader xmlrpc.client xmlrpc.server zipapp zipfile zipimport zlib
""".split()
"""Public modules whose import does nothing else (``antigravity`` opens a browser, ``this`` prints)."""


def _docstrings() -> list[Pair]:
    """Callable with its signature -> first paragraph of its docstring; sorted, each prompt and each text once."""
    pairs: dict[str, str] = {}
    for name in MODULES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(name)
        except ImportError:
            continue  # an optional part of Python that this build lacks
        for title, member in _callables(module, name):
            text = _first_paragraph(member)
            if text:
                pairs.setdefault(f"What does `{title}{_signature(member)}` do?", text)
    texts: set[str] = set()
    return [(p, t) for p, t in sorted(pairs.items()) if not (t in texts or texts.add(t))]  # type: ignore[func-returns-value]


def _callables(module: types.ModuleType, module_name: str) -> Iterator[tuple[str, Any]]:
    for name, member in sorted(vars(module).items()):
        if name.startswith("_") or not callable(member):
            continue
        if getattr(member, "__module__", module_name) not in (module_name, f"_{module_name}"):
            continue
        yield f"{module_name}.{name}", member
        if isinstance(member, type):
            for method, function in sorted(vars(member).items()):
                if not method.startswith("_") and callable(function):
                    yield f"{module_name}.{name}.{method}", function


def _signature(member: Any) -> str:
    try:
        text = str(inspect.signature(member))
    except (TypeError, ValueError):
        return "(...)"
    # Addresses in defaults differ from process to process, and long signatures say little.
    return text if " at 0x" not in text and len(text) <= 100 else "(...)"


def _first_paragraph(member: Any) -> str | None:
    text = inspect.getdoc(member) if isinstance(getattr(member, "__doc__", None), str) else None
    paragraph = re.sub(r"\s+", " ", (text or "").strip().split("\n\n")[0]).strip()
    return paragraph if 20 <= len(paragraph) <= 300 and " at 0x" not in paragraph else None


# -- numbers in words --------------------------------------------------------------------------------------------------

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_in_words(number: int) -> str:
    """English words for 0 <= number < 1,000,000: ``342`` is ``three hundred forty-two``."""
    if number >= 1000:
        rest = f" {number_in_words(number % 1000)}" if number % 1000 else ""
        return f"{number_in_words(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" {number_in_words(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    if number >= 20:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    return ONES[number]


def _number_words(seed: int, count: int) -> list[Pair]:
    """Numbers of one to six digits, each length as likely as the others, each number once."""
    available = 1_000_000
    draw = random.Random(seed + 1)
    numbers: dict[int, None] = {}
    while len(numbers) < min(count, available):
        number = draw.randrange(10 ** draw.randint(1, 6))
        numbers.setdefault(number)
    return [(f"Write {number} in English words.", number_in_words(number)) for number in numbers]
