"""The code that determines a run's result, as a hash that says when it changed."""

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowrung.store import layout, sealed

DETERMINING = ("finetune", "runs/execution.py", "runs/computation.py", "config/schema.py")
"""What is hashed, below the package: all that trains and verifies, and what assembles a run of it.

Whatever else a run imports carries values and writes files; ``tests/config/test_source.py`` holds that list closed.
"""


@functools.cache
def digest() -> str:
    """A hash of the code that determines results; comments, docstrings and layout leave it as it is.

    To parse the code takes 0.2 s, in each process of a sweep. So the digest is kept under a hash of the files' bytes.
    """
    package = Path(__file__).parents[1]
    total = hashlib.sha256(sys.version.encode())
    for file in _files(package):
        total.update(f"{file.relative_to(package).as_posix()}:".encode() + file.read_bytes())
    record = layout.source_record(total.hexdigest()[:16])
    known = sealed.read(record)
    if known is None:
        known = {"digest": digest_of(package)}
        sealed.keep(record, known)
    return str(known["digest"])


def digest_of(package: Path) -> str:
    """The same for a copy of the package at ``package``."""
    total = hashlib.sha256()
    for file in _files(package):
        tree = _without_docstrings(ast.parse(file.read_bytes()))
        total.update(f"{file.relative_to(package).as_posix()}:{_canonical(tree)}\n".encode())
    return total.hexdigest()


def _files(package: Path) -> Iterator[Path]:
    for name in DETERMINING:
        path = package / name
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Takes out every statement that is a text alone: docstrings, and those that stand below an attribute."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [each for each in statements if not _is_text(each)])
    return tree


def _is_text(statement: ast.AST) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _canonical(node: Any) -> str:
    """A syntax tree as text. Empty fields are left out: each Python adds some, and `ast.dump` shows them."""
    if isinstance(node, ast.AST):
        fields = ((name, _canonical(value)) for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({','.join(f'{name}={text}' for name, text in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)
