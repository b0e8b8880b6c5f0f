"""The standard library's docstrings: a callable with its signature -> the first paragraph of its docstring.

Run as a script it prints all pairs as JSON. It imports the standard library only; see `lowrung.finetune.data.corpus`.
"""

import importlib
import inspect
import json
import re
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

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


def collect() -> list[tuple[str, str]]:
    """Pairs of a question and the docstring that answers it; sorted, each question and each answer once."""
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
    except Exception:  # it evaluates texts written in C: Python 3.13 raises AttributeError over select.epoll.register
        return "(...)"
    # Addresses in defaults differ from process to process, and the interpreter's path from machine to machine
    # (platform.architecture). Long signatures say little.
    is_same_everywhere = " at 0x" not in text and sys.executable not in text
    return text if is_same_everywhere and len(text) <= 100 else "(...)"


def _first_paragraph(member: Any) -> str | None:
    text = inspect.getdoc(member) if isinstance(getattr(member, "__doc__", None), str) else None
    paragraph = re.sub(r"\s+", " ", (text or "").strip().split("\n\n")[0]).strip()
    return paragraph if 20 <= len(paragraph) <= 300 and " at 0x" not in paragraph else None


if __name__ == "__main__":
    json.dump(collect(), sys.stdout)
