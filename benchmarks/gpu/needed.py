"""Which packages a machine lacks that is to run the tests of a GPU, and in which versions they are brought.

The versions are those that are installed here: what lowrung is tested with. What a machine has stays, if it is within
the ranges that are asked for.
"""

import importlib.metadata
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[2]

TESTS = ("absl-py", "packaging", "psutil", "pytest", "pytest-timeout")
"""What tests/gpu needs beside lowrung and its extra `quantization`."""

EXACT = ("accelerate", "peft", "transformers", "trl")
"""What computes a run. lowrung is tested with one version of each, so another one is replaced."""

NEVER = "torch"
"""It is built for the machine's CUDA, and takes gigabytes."""

Requirements = Callable[[str], Sequence[str]]
"""Gives what a package asks for, by the package's name."""


class Unusable(Exception):  # noqa: N818  (it names a machine)
    """A machine that no bundle can help; the text is for the user."""


def parse(text: str) -> dict[str, str | None]:
    """The packages of a machine, by canonical name, with the version or None.

    Args:
        text: what ``pip list`` prints in any of its formats, or names between commas.

    Raises:
        Unusable: when it names no package at all.
    """
    found: dict[str, str | None]
    if text.lstrip().startswith("["):
        found = {str(each["name"]): str(each["version"]) for each in json.loads(text)}
    else:
        named = (_named(line) for part in text.splitlines() for line in part.split(","))
        found = {name: version for name, version in named if name}
    if not found:
        raise Unusable("The list of packages must be what `pip list` prints, but it names none.")
    return {str(canonicalize_name(name)): _valid(version) for name, version in found.items()}


_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\s*(?:==|\s)\s*([0-9][^\s]*))?(?:\s+.*|\s*@.*)?")


def _named(line: str) -> tuple[str, str | None]:
    text = line.strip().rstrip(".")
    match = None if text.startswith(("-", "#", "Package ")) or text == "Package" else _LINE.fullmatch(text)
    return (match[1], match[2]) if match else ("", None)


def _valid(version: str | None) -> str | None:
    try:
        return str(Version(version)) if version else None
    except InvalidVersion:
        return None


def target(python: str) -> dict[str, str]:
    """What the markers of requirements are decided by on 64-bit Linux with this Python, such as ``3.12``."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }


def asked_here() -> list[str]:
    """What lowrung asks for by pyproject.toml, with bitsandbytes, and what the tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["quantization"], *TESTS]


def requirements_here(name: str) -> Sequence[str]:
    """What the version of a package asks for that is installed here."""
    return importlib.metadata.requires(name) or []


def version_here(name: str) -> str:
    """The version of a package that is installed here.

    Raises:
        Unusable: when it is not.
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise Unusable(f"{name} is needed on that Python, but is not installed here: `pip install {name}`.") from None


def lacking(
    has: Mapping[str, str | None],
    environment: Mapping[str, str],
    *,
    asked: Sequence[str] | None = None,
    requirements: Requirements = requirements_here,
    version: Callable[[str], str] = version_here,
) -> dict[str, str]:
    """The versions that are to be brought, by package. What is brought is asked for its own requirements in turn.

    Args:
        has: see `parse`. A package whose version is not known is taken to do, unless it is one of `EXACT`.
        environment: see `target`.
        asked: the requirements to begin with; None is `asked_here`.
        requirements: of a package that is brought.
        version: the version in which a package is brought.

    Raises:
        Unusable: when torch is missing, or is not one that will do.
    """
    brought: dict[str, str] = {}
    waiting = [("lowrung", each) for each in (asked_here() if asked is None else asked)]
    seen = set()
    while waiting:
        by, text = waiting.pop()
        need = Requirement(text)
        name = str(canonicalize_name(need.name))
        if text in seen or not _applies(need, environment, ""):
            continue
        seen.add(text)
        wanted = set(need.extras)
        if not _does(name, need, has, version) and name not in brought:
            if name == NEVER:
                raise Unusable(f"{by} needs `{need}`, but the machine has {has.get(name) or 'none'}: install it there.")
            brought[name] = version(name)
            wanted.add("")
        waiting += [(name, each) for each in _of(requirements(name), environment, wanted)] if wanted else []
    return dict(sorted(brought.items()))


def _of(texts: Sequence[str], environment: Mapping[str, str], extras: set[str]) -> Iterator[str]:
    """The requirements of these extras, without their markers; those of a package itself where "" is among them."""
    for text in texts:
        need = Requirement(text)
        is_own = _applies(need, environment, "")
        if (is_own and "" in extras) or (not is_own and any(_applies(need, environment, each) for each in extras)):
            need.marker = None
            yield str(need)


def _applies(need: Requirement, environment: Mapping[str, str], extra: str) -> bool:
    return need.marker is None or need.marker.evaluate({**environment, "extra": extra})


def _does(name: str, need: Requirement, has: Mapping[str, str | None], version: Callable[[str], str]) -> bool:
    """Whether what the machine has will do."""
    if name not in has:
        return False
    there = has[name]
    if name in EXACT:
        return there is not None and there == version(name)
    return there is None or need.specifier.contains(there, prereleases=True)


def broken() -> tuple[list[str], list[str]]:
    """What is not installed in the environment of this process, and what is out of range there, in words."""
    missing, others, seen = set(), set(), set()
    waiting = [("lowrung", each) for each in asked_here()]
    while waiting:
        by, text = waiting.pop()
        need = Requirement(text)
        if (by, text) in seen or not _applies(need, {}, ""):
            continue
        seen.add((by, text))
        try:
            there = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            missing.add(f"{by} needs `{need}`, which is not installed")
            continue
        if not need.specifier.contains(there, prereleases=True):
            others.add(f"{by} needs `{need}`, but {there} is installed")
        waiting += [(need.name, each) for each in _of(requirements_here(need.name), {}, {*need.extras, ""})]
    return sorted(missing), sorted(others)
