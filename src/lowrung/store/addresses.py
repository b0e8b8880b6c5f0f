"""Addresses of databases and servers: where they point, and that they hold no password."""

import re
from collections.abc import Sequence
from pathlib import Path

_DRIVEN = ("postgresql", "mysql", "mssql")
_SECRET_KEYS = re.compile(r"[?&;](password|passwd|pwd|token|secret)=", re.IGNORECASE)


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite address, or None for any other address."""
    name = uri.removeprefix("sqlite:///")
    return Path(name) if name and name != uri else None


def absolute(uri: str, folder: Path) -> str:
    """The address, the same from every working folder.

    Args:
        uri: any address.
        folder: what the path of a SQLite file is relative to.
    """
    database = sqlite_path(uri)
    return f"sqlite:///{folder.absolute() / database}" if database else uri


def holds_a_password(uri: str) -> bool:
    """Whether an address has a password or a token in it; configs are written to disk, and neither must be.

    A database's user may be named. What stands before the host of a web server may be a token, and so may its query,
    which no tracker needs.
    """
    scheme, _, rest = uri.partition("://")
    user = rest.rpartition("@")[0]
    may_be_a_token = scheme.startswith("http") and user != "" and "/" not in user
    may_be_a_token |= scheme.startswith("http") and "?" in rest
    return ":" in user or may_be_a_token or _SECRET_KEYS.search(rest) is not None


def database_problems(setting: str, uri: str, kinds: Sequence[str]) -> list[str]:
    """What is wrong with a database's address, one sentence or two each. A password is never repeated.

    Nothing is opened: whether the database exists and answers is found out later.
    """
    scheme, _, rest = uri.partition("://")
    if scheme.partition("+")[0] not in kinds or not rest or (scheme == "sqlite" and not sqlite_path(uri)):
        shown = f"{scheme}://..." if rest else f"{uri!r}"
        return [
            f"{setting} must be the address of a database ({', '.join(f'{kind}://...' for kind in kinds)}), but is"
            f" {shown}. For a file write sqlite:/// and its path; null is a file in the study's folder."
        ]
    if holds_a_password(uri):
        return [
            f"{setting} must hold no password, but this {scheme} address does, and configs are written to disk. Take it"
            " out, and give it by PGPASSWORD or ~/.pgpass (PostgreSQL), or by a driver's option file (MySQL)."
        ]
    return driver_problems(setting, uri)


def driver_problems(setting: str, uri: str) -> list[str]:
    """Whether what speaks to a database is not installed; none of a file's or a server's address."""
    scheme = uri.partition("://")[0].lower()
    if scheme.partition("+")[0] not in _DRIVEN:
        return []
    from sqlalchemy import make_url  # 0.3 s
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(uri)
    except (ArgumentError, ValueError):  # ValueError: its port is no number
        return [f"{setting} must be an address like {scheme}://me@host:port/database, but cannot be read so."]
    try:
        address.get_dialect().import_dbapi()
    except (ImportError, ArgumentError) as error:  # ArgumentError: there is no driver of this name
        remedy = "Run pip install 'lowrung[postgresql]'" if scheme == "postgresql" else "Install it, or name another"
        return [f"{setting} needs the driver of {scheme} for Python, which does not load ({error}). {remedy}."]
    return []
