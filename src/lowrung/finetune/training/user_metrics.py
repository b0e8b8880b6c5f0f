"""Scores of generated text by functions of the user's: how they are found, checked and called.

A function is named by its dotted name in ``data.metrics`` and takes two lists of texts, ``(predictions, references) ->
number``; or it gives one number for each prediction, whose mean is the score. Its module is searched for on Python's
path, and then in the working folder.
"""

import contextlib
import hashlib
import importlib
import importlib.machinery
import inspect
import math
import reprlib
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lowrung.config import schema
from lowrung.errors import UsageError, did_you_mean

Texts = Sequence[str]

Found = dict[str, float | list[float]]
"""Scores by name: one number for all texts, or one for each, whose mean is the score."""

_RULE = "data.metrics must name functions `(predictions, references) -> number`"


def of_users(names: Sequence[str]) -> list[str]:
    """The metrics that are functions of the user's, each once."""
    return [name for name in dict.fromkeys(names) if name not in schema.METRICS]


def problems(names: Sequence[str]) -> list[str]:
    """Why these functions cannot be called: missing modules or functions.

    Args:
        names: as in ``data.metrics``.
    """
    found: list[str] = []
    with _working_folder_on_path():
        for name in of_users(names):
            try:
                _function(name)
            except UsageError as error:
                found += error.problems
    return found


def fingerprint(names: Sequence[str]) -> str:
    """A hash of the source of the user's functions: another version of a function gives other results.

    It covers the modules that are named and those that define the functions, not what these import.

    Args:
        names: as in ``data.metrics``; they have no `problems`.

    Returns:
        16 hex digits, or an empty text where all metrics are lowrung's own.
    """
    contents: dict[str, list[str]] = {}
    with _working_folder_on_path():
        for name in of_users(names):
            function, module = _function(name)
            contents[name] = [_content(module), _content(inspect.getmodule(function))]
    return schema.digest(contents) if contents else ""


def modules(names: Sequence[str]) -> dict[str, str | None]:
    """Where Python finds the modules of the user's functions now, by module; nothing is imported.

    Args:
        names: as in ``data.metrics``.
    """
    found: dict[str, str | None] = {}
    with _working_folder_on_path():
        importlib.invalidate_caches()
        for name in of_users(names):
            path = None
            for end, letter in enumerate(name):
                if letter == ".":  # each package of a dotted name, then the module
                    spec = importlib.machinery.PathFinder.find_spec(name[:end], path)
                    found[name[:end]] = spec.origin if spec else None
                    path = list(spec.submodule_search_locations or ()) if spec else []
    return found


def loaded_files(names: Sequence[str]) -> list[Path]:
    """The files of the modules that these metrics have brought here, but for Python's and those of installed packages.

    Args:
        names: as in ``data.metrics``; none has a problem.
    """
    if not of_users(names):
        return []
    files = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    known = [Path(sysconfig.get_paths()["stdlib"]), Path(__file__).parents[2]]
    brought = [
        file
        for file in files
        if file.is_absolute()  # torch names two modules as if they were files
        and not {"site-packages", "dist-packages"} & set(file.parts)
        and not any(file.is_relative_to(folder) for folder in known)
    ]
    return [next((part for part in (file, *file.parents) if part.is_file()), file) for file in brought]  # or an archive


def _function(name: str) -> tuple[Callable[..., Any], ModuleType]:
    """The function that a dotted name stands for, and the module that is named.

    Raises:
        UsageError: when there is none that two lists of texts can be given to.
    """
    module_name, _, function_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module may do anything while it is imported
        raise UsageError(
            f"data.metrics names {name}, but its module {module_name!r} cannot be imported: {_one_line(error)}."
            f" Python searches its own path first, then {Path.cwd()}."
        ) from error
    if not hasattr(module, function_name):
        meant = did_you_mean(function_name, [known for known in dir(module) if not known.startswith("_")])
        file = getattr(module, "__file__", None) or "built in"
        raise UsageError(f"data.metrics names {name}, but {module_name} ({file}) has no {function_name!r}.{meant}")
    function = getattr(module, function_name)
    if not callable(function):
        raise UsageError(f"{_RULE}, but {name} is {reprlib.repr(function)}.")
    if problem := _signature_problem(function):
        raise UsageError(f"{_RULE}, but {name} cannot be called so: {problem}.")
    return function, module


def _signature_problem(function: Callable[..., Any]) -> str | None:
    """Why a function cannot be called with two arguments, or None."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return None
    try:
        signature.bind([], [])
    except TypeError as error:
        return f"{error} in {signature}"
    return None


def score(name: str, predictions: Texts, references: Texts) -> Found:
    """What a function of the user's says of generated texts.

    Raises:
        UsageError: when it raises, or returns something that is neither a finite number nor one for each text.
    """
    with _working_folder_on_path():  # while it runs too: it may import only then
        function, _ = _function(name)
        try:
            value = function(list(predictions), list(references))
        except (Exception, SystemExit) as error:
            raise UsageError(f"{_RULE}, but {name} raised {_one_line(error)}.") from error
    found = _numbers(value, len(predictions))
    if found is None:
        raise UsageError(
            f"{_RULE}, but {name} returned {reprlib.repr(value)}, which is not a finite number, nor one for each of"
            f" {len(predictions)} predictions."
        )
    return {schema.metric_names(name)[0]: found}


def _numbers(value: Any, texts: int) -> float | list[float] | None:
    """A finite number as a float, or one for each text as a list; None for anything else."""
    number = _number(value)
    if number is not None:
        return number if math.isfinite(number) else None
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        return None
    numbers = [_number(one) for one in value]
    finite = [one for one in numbers if one is not None and math.isfinite(one)]
    return finite if len(finite) == len(numbers) == texts else None


def _number(value: Any) -> float | None:
    """A number of any library's as a float: NumPy's, and tensors of one element, too; None for anything else."""
    try:
        return float(value) if hasattr(value, "__float__") else None  # a text has none
    except Exception:  # several elements, a complex number, one too large: each library has an error of its own
        return None


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(". ")


def _content(module: ModuleType | None) -> str:
    """A hash of a module's file; of the name alone where it is built in."""
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else getattr(module, "__name__", "")


@contextlib.contextmanager
def _working_folder_on_path() -> Iterator[None]:
    """Lets modules be found in the working folder, last of all, so that none there hides a library's."""
    folder = str(Path.cwd())
    if folder in sys.path:
        yield
        return
    importlib.invalidate_caches()  # a module may be newer than what Python has cached of its folder
    sys.path.append(folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
