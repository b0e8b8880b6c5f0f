"""How much each axis matters for the first objective: PED-ANOVA, on the trials of a study that has ended."""

import math
import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

LEAST = 10
"""Trials below which nothing is said: a shuffled column of 8 points often comes out first."""
_TOP = 5
"""PED-ANOVA's authors ask for so many trials in the best group; with fewer it follows single ones."""


def of(
    points: Sequence[Mapping[str, str]],
    values: Sequence[float],
    *,
    is_maximised: bool = False,
    intervals: Mapping[str, tuple[float, float, bool]] | None = None,
) -> dict[str, float]:
    """The share of each key in what sets the best trials apart from all, the largest first; see `quantile`.

    Args:
        points: what was chosen (n), by key, as text. A key may be absent from some.
        values: of the objective (n); a point whose value is not finite does not count.
        is_maximised: whether more is better.
        intervals: keys that were searched between two ends: low, high, and whether by orders of magnitude. Any other
            key has a list of values.

    Returns:
        shares that add up to 1; empty where fewer than `LEAST` trials or no varied key are left, or no key matters.
    """
    kept = [(point, value) for point, value in zip(points, values, strict=True) if math.isfinite(value)]
    distributions = _distributions([point for point, _ in kept], intervals or {})
    if len(kept) < LEAST or not distributions:
        return {}
    # Brings scikit-learn and scipy.stats, 1 s of CPU time, which a sweep of few trials does without.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction="maximize" if is_maximised else "minimize")
    study.add_trials([_trial(point, value, distributions) for point, value in kept])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of regimes with few trials: a value that a part of the trials lacks
        found = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile(len(kept))), normalize=False
        )
    total = sum(found.values())
    if not math.isfinite(total) or total <= 0:
        return {}
    return {key: value / total for key, value in sorted(found.items(), key=lambda item: -item[1])}


def quantile(trials: int) -> float:
    """The share of trials that counts as the best group: a tenth, or more where that is fewer than five trials."""
    return max(0.1, min(0.5, _TOP / trials))


def _distributions(
    points: Sequence[Mapping[str, str]], intervals: Mapping[str, tuple[float, float, bool]]
) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for key in dict.fromkeys(key for point in points for key in point):
        texts = list(dict.fromkeys(point[key] for point in points if key in point))
        if len(texts) < 2:
            continue
        low, high, is_log = intervals.get(key, (math.nan, math.nan, False))
        if all(low <= _number(text) <= high for text in texts):
            found[key] = FloatDistribution(low, high, log=is_log)
        else:
            found[key] = CategoricalDistribution(texts)
    return found


def _trial(
    point: Mapping[str, str], value: float, distributions: Mapping[str, BaseDistribution]
) -> optuna.trial.FrozenTrial:
    own = {key: distribution for key, distribution in distributions.items() if key in point}
    params = {key: float(point[key]) if isinstance(own[key], FloatDistribution) else point[key] for key in own}
    return create_trial(params=params, distributions=own, value=value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
