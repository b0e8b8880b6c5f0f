"""Scores of generated text: those that lowrung brings, and functions of the user's.

A function of the user's is named by its dotted name in ``data.metrics`` and takes two lists of texts,
``(predictions, references) -> number``; or it gives one number for each prediction, whose mean is the score. Its module
is searched for on Python's path, and then in the working folder.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import math
import reprlib
import statistics
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lowrung.config import schema
from lowrung.errors import UsageError, did_you_mean, install

Texts = Sequence[str]

_RULE = "data.metrics must name functions `(predictions, references) -> number`"
_PACKAGES = {"rouge": "rouge-score", "bleu": "sacrebleu"}
_ALWAYS = ("loss", "perplexity", "token_accuracy")
"""What every evaluation records below ``eval/``: no score may take these names."""


def problems(names: Sequence[str]) -> list[str]:
    """Why these metrics cannot be computed: missing packages, modules or functions, and names that would collide.

    Args:
        names: as in ``data.metrics``.
    """
    found = [
        f"data.metrics={name} needs the package {package}, which is not installed. {install('metrics')}"
        for name, package in _PACKAGES.items()
        if name in names and importlib.util.find_spec(package.replace("-", "_")) is None
    ]
    with _working_folder_on_path():
        for name in _users(names):
            try:
                _function(name)
            except UsageError as error:
                found += error.problems
    return [*found, *_name_problems(names)]


@dataclasses.dataclass(frozen=True)
class Answered:
    """The scores of generated texts.

    Attributes:
        metrics: over all texts, by the names that `schema.metric_names` gives, without ``eval/``.
        each: of each text, where the score over all is their mean; by the same names.
    """

    metrics: Mapping[str, float]
    each: Mapping[str, Sequence[float]]


def score(names: Sequence[str], predictions: Texts, references: Texts) -> Answered:
    """Scores generated texts against what was expected.

    Args:
        names: as in ``data.metrics``.
        predictions: what was generated; at least one.
        references: what was expected, in the same order.

    Returns:
        ``exact_match``, a share; ``rouge1``, ``rouge2`` and ``rougeL``, mean F1 in 0..1; ``bleu`` in 0..100; and those
        of the user's functions.

    Raises:
        UsageError: when a function of the user's raises, or returns something that is neither a finite number nor one
            for each text; all such functions at once.
    """
    scores: dict[str, float] = {}
    each: dict[str, Sequence[float]] = {}
    broken: list[str] = []
    cause: Exception | None = None
    for name in dict.fromkeys(names):
        try:
            found = _OURS[name](predictions, references) if name in _OURS else _by_users(name, predictions, references)
        except UsageError as error:
            broken += error.problems
            cause = cause or error
            continue
        for key, value in found.items():
            if isinstance(value, float):
                scores[key] = value
            else:
                scores[key], each[key] = statistics.fmean(value), value
    if broken:
        raise UsageError(broken) from cause  # its own traceback belongs in the run's log
    return Answered(scores, each)


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
        for name in _users(names):
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
        for name in _users(names):
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
    if not _users(names):
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


# -- lowrung's own -----------------------------------------------------------------------------------------------------


_Found = dict[str, float | list[float]]
"""Scores by name: one number for all texts, or one for each, whose mean is the score."""


def _exact_match(predictions: Texts, references: Texts) -> _Found:
    """Whether a prediction is its reference, up to white space at the ends."""
    pairs = zip(predictions, references, strict=True)
    return {"exact_match": [float(one.strip() == other.strip()) for one, other in pairs]}


def _rouge(predictions: Texts, references: Texts) -> _Found:
    """ROUGE (Lin 2004, https://aclanthology.org/W04-1013), F1 with Porter stemming, as is usual for English.

    Its tokens are runs of a-z and 0-9: text in another script scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    kinds = schema.metric_names("rouge")
    scorer = RougeScorer(kinds, use_stemmer=True)
    scored = [scorer.score(reference, text) for text, reference in zip(predictions, references, strict=True)]
    return {kind: [float(one[kind].fmeasure) for one in scored] for kind in kinds}


def _bleu(predictions: Texts, references: Texts) -> _Found:
    """Corpus BLEU (Papineni et al. 2002, https://aclanthology.org/P02-1040), with sacrebleu's defaults."""
    from sacrebleu.metrics.bleu import BLEU

    return {"bleu": float(BLEU().corpus_score(predictions, [references]).score)}


_OURS: dict[str, Callable[[Texts, Texts], _Found]] = {
    "exact_match": _exact_match,
    "rouge": _rouge,
    "bleu": _bleu,
}


# -- the user's --------------------------------------------------------------------------------------------------------


def _users(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name not in _OURS]


def _key(name: str) -> str:
    """What a user's function is recorded under."""
    return schema.metric_names(name)[0]


def _name_problems(names: Sequence[str]) -> Iterator[str]:
    """Scores that would be recorded under one name."""
    counts = Counter([*_ALWAYS, *(key for name in dict.fromkeys(names) for key in schema.metric_names(name))])
    for key in (key for key, count in counts.items() if count > 1):
        yield (
            f"data.metrics must give each score a name of its own, but eval/{key} would be recorded twice. Rename the"
            " function: the last part of its dotted name counts."
        )


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


def _by_users(name: str, predictions: Texts, references: Texts) -> _Found:
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
    return {_key(name): found}


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
