"""Scores of generated text: those that lowrung brings, and functions of the user's (`user_metrics`)."""

import dataclasses
import importlib.util
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from lowrung.config import schema
from lowrung.errors import UsageError, install
from lowrung.finetune.training import user_metrics
from lowrung.finetune.training.user_metrics import Found, Texts

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
    return [*found, *user_metrics.problems(names), *_name_problems(names)]


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
            found = (
                _OURS[name](predictions, references)
                if name in _OURS
                else user_metrics.score(name, predictions, references)
            )
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


# -- lowrung's own -----------------------------------------------------------------------------------------------------


def _exact_match(predictions: Texts, references: Texts) -> Found:
    """Whether a prediction is its reference, up to white space at the ends."""
    pairs = zip(predictions, references, strict=True)
    return {"exact_match": [float(one.strip() == other.strip()) for one, other in pairs]}


def _rouge(predictions: Texts, references: Texts) -> Found:
    """ROUGE (Lin 2004, https://aclanthology.org/W04-1013), F1 with Porter stemming, as is usual for English.

    Its tokens are runs of a-z and 0-9: text in another script scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    kinds = schema.metric_names("rouge")
    scorer = RougeScorer(kinds, use_stemmer=True)
    scored = [scorer.score(reference, text) for text, reference in zip(predictions, references, strict=True)]
    return {kind: [float(one[kind].fmeasure) for one in scored] for kind in kinds}


def _bleu(predictions: Texts, references: Texts) -> Found:
    """Corpus BLEU (Papineni et al. 2002, https://aclanthology.org/P02-1040), with sacrebleu's defaults."""
    from sacrebleu.metrics.bleu import BLEU

    return {"bleu": float(BLEU().corpus_score(predictions, [references]).score)}


_OURS: dict[str, Callable[[Texts, Texts], Found]] = {
    "exact_match": _exact_match,
    "rouge": _rouge,
    "bleu": _bleu,
}


def _name_problems(names: Sequence[str]) -> Iterator[str]:
    """Scores that would be recorded under one name."""
    counts = Counter([*_ALWAYS, *(key for name in dict.fromkeys(names) for key in schema.metric_names(name))])
    for key in (key for key, count in counts.items() if count > 1):
        yield (
            f"data.metrics must give each score a name of its own, but eval/{key} would be recorded twice. Rename the"
            " function: the last part of its dotted name counts."
        )
