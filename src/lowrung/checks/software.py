"""lowrung, Python and the libraries, against what lowrung asks for."""

import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from lowrung.checks.finding import Check, Finding, note, ok, wrong
from lowrung.config import signature
from lowrung.errors import install
from lowrung.version import __version__

DEVELOPERS = "dev"
"""The extra that users have no need of."""


SECONDS = 30.0
"""The longest that git may take, and what it takes to read the versions of all packages."""


def checks(_: Path) -> list[Check]:
    """The versions of lowrung, with its commit, of Python, of each required library and of the extras."""
    return [
        Check("lowrung", _lowrung, SECONDS, "See whether `git status` hangs in lowrung's checkout."),
        Check("libraries", libraries, SECONDS, "The disk that Python is installed on hangs."),
    ]


def _lowrung() -> Iterator[Finding]:
    yield ok("lowrung", f"{__version__}, commit {signature.git_commit()}")


def libraries() -> Iterator[Finding]:
    """Python, and what lowrung asks for."""
    yield ok("Python", f"{platform.python_version()} ({platform.python_implementation()}), {platform.platform()}")
    try:
        asked = [Requirement(text) for text in importlib.metadata.requires("lowrung") or ()]
    except importlib.metadata.PackageNotFoundError:
        yield note("libraries", "lowrung runs from a folder and is not installed: what it asks for is not known")
        return
    yield from _required([each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})])
    extras = importlib.metadata.metadata("lowrung").get_all("Provides-Extra") or []
    for extra in (extra for extra in extras if extra != DEVELOPERS):
        wanted = [each for each in asked if f'extra == "{extra}"' in str(each.marker)]
        yield from _extra(extra, wanted)


def _required(asked: list[Requirement]) -> Iterator[Finding]:
    good = []
    for each in asked:
        version, problem = _standing(each)
        if problem:
            yield wrong(each.name, problem, f"Run `pip install '{each.name}{each.specifier}'`.")
        else:
            good.append(f"{each.name} {version}")
    yield ok("libraries", ", ".join(sorted(good)))


def _extra(extra: str, wanted: list[Requirement]) -> Iterator[Finding]:
    problems = [problem for each in wanted if (problem := _standing(each)[1])]
    if problems:
        yield note(f"extra {extra}", "; ".join(problems), install(extra))
    else:
        yield ok(f"extra {extra}", ", ".join(f"{each.name} {_standing(each)[0]}" for each in wanted))


def _standing(asked: Requirement) -> tuple[str | None, str | None]:
    """The installed version, and what is wrong with it."""
    try:
        version = importlib.metadata.version(asked.name)
    except importlib.metadata.PackageNotFoundError:
        return None, f"{asked.name} is not installed"
    if not asked.specifier.contains(version, prereleases=True):
        return version, f"{asked.name} must be {asked.specifier}, but is {version}"
    return version, None
