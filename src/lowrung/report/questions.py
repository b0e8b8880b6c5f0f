"""Questions that a sweep puts badly: where its answer would be one to another question."""

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from lowrung.config.schema import Config, is_converted
from lowrung.report.leaderboard import TrialRow, shown
from lowrung.report.trial_names import listed
from lowrung.store.outcome import Status

Key = TypeVar("Key")

NEAR = 0.05
"""A drawn value is at an end of its interval where it is this near to it, as a share of the interval."""

ALIKE = 1.05
"""Trials are trained alike where none sees more than so many times the examples of another: last batches differ."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What decides whether two trials can be compared fairly.

    Attributes:
        variant: what kind of LoRA it is: ``lora``, or what sets it apart from that.
        rank: of the adapter; 0 where all weights are trained.
        scaling: of the update: alpha / r, with rsLoRA alpha / sqrt(r).
        rate: the learning rate in words.
        examples: how many it trains on, repeated ones included; NaN where packing makes that unknown.
    """

    variant: str
    rank: int
    scaling: float
    rate: str
    examples: float

    @classmethod
    def of(cls, config: Config, rows: int) -> "Recipe":
        """The recipe of a run.

        Args:
            config: the run's.
            rows: examples that there are to train on.
        """
        lora, train = config.lora, config.train
        scaling = 0.0 if lora.is_full else lora.alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)
        steps = train.max_steps if train.epochs is None else None
        examples = (train.epochs or 0) * rows
        if steps is not None:
            examples = math.nan if train.packing else steps * train.batch_size * train.gradient_accumulation_steps
        return cls(_variant(config), 0 if lora.is_full else lora.r, scaling, _rate(config), examples)


def _variant(config: Config) -> str:
    lora = config.lora
    if lora.is_full:
        return "full"
    found = [lora.init] * (lora.init != "default") + ["dora"] * lora.use_dora + ["rslora"] * lora.use_rslora
    return "+".join([*found, *["lora_plus"] * (lora.lora_plus_ratio is not None)]) or "lora"


def _rate(config: Config) -> str:
    factor = config.train.rate_factor
    if config.train.learning_rate is not None:
        return f"{config.train.learning_rate * factor:g}"
    own = "the model's own for full fine-tuning" if config.lora.is_full else "the model's own"
    return own if factor == 1 else f"{factor:g} times {own}"


def _needs_its_own_rate(variant: str) -> bool:
    """Whether the best rate of a variant is known to differ from plain LoRA's.

    Inits from the base's weights or gradients start with large factors; the magnitudes of DoRA, the second rate of
    LoRA+ and the scaling of rsLoRA change what a step does; full fine-tuning takes about a tenth.
    """
    return any(
        is_converted(part) or part in ("full", "mica", "dora", "rslora", "lora_plus") for part in variant.split("+")
    )


def unfair(recipes: Collection[Recipe]) -> list[str]:
    """What is compared at one learning rate or after training of different lengths, a sentence each.

    Args:
        recipes: of all trials, as they are planned or were run.
    """
    distinct = list(dict.fromkeys(recipes))
    return [*_ranks_at_one_rate(distinct), *_variants_at_one_rate(distinct), *_budgets(distinct)]


def _ranks_at_one_rate(recipes: Sequence[Recipe]) -> Iterator[str]:
    rates = _rates([((one.variant, one.rank, one.scaling), one.rate) for one in recipes if one.rank])
    pairs = [
        (one, other)
        for one, other in _at_one_rate(rates)
        if one[0] == other[0] and one[1] != other[1] and math.isclose(one[2], other[2])
    ]
    if pairs:
        ranks = sorted({rank for pair in pairs for _, rank, _ in pair})
        one, other = pairs[0]
        rate, scaling = min(rates[one], rates[other], key=len), one[2]
        root = "sqrt(r)" if "rslora" in one[0] else "r"
        yield (
            f"ranks {listed([str(rank) for rank in ranks])} are compared at one learning rate ({''.join(rate)}) with"
            f" alpha / {root} at {scaling:g}: a larger rank then takes larger steps, so that this compares rates. Set"
            " lora.alpha=32, or search train.learning_rate too."
        )


def _variants_at_one_rate(recipes: Sequence[Recipe]) -> Iterator[str]:
    rates = _rates([(one.variant, one.rate) for one in recipes])
    pairs = [pair for pair in _at_one_rate(rates) if any(map(_needs_its_own_rate, pair))]
    if pairs:
        variants = dict.fromkeys(variant for pair in pairs for variant in pair)
        rate = min((rates[variant] for variant in variants), key=len)
        needy = [variant for variant in variants if _needs_its_own_rate(variant)]
        yield (
            f"{listed(list(variants))} are compared at one learning rate ({''.join(rate)}), but {listed(needy)}"
            f" need{'s' * (len(needy) == 1)} another as a rule. Search train.learning_rate for each."
        )


def _rates(pairs: Collection[tuple[Key, str]]) -> dict[Key, dict[str, None]]:
    found: dict[Key, dict[str, None]] = {}
    for key, rate in pairs:
        found.setdefault(key, {})[rate] = None
    return found


def _at_one_rate(rates: Mapping[Key, Mapping[str, None]]) -> list[tuple[Key, Key]]:
    """Pairs of which one was tried at a single rate, and the other at that rate too."""
    return [
        (one, other)
        for one, other in itertools.combinations(rates, 2)
        if min(len(rates[one]), len(rates[other])) == 1 and rates[one].keys() & rates[other].keys()
    ]


def _budgets(recipes: Sequence[Recipe]) -> Iterator[str]:
    known = [one.examples for one in recipes if not math.isnan(one.examples)]
    if known and max(known) > ALIKE * min(known):
        yield (
            f"trials are trained on {min(known):,.0f} to {max(known):,.0f} examples: training longer may be all that"
            " makes one better. Keep steps x batch x accumulation, or train.epochs, equal."
        )
    elif known and len(known) < len(recipes):
        yield (
            "trials with train.packing are trained on more tokens a step than those without. Set train.epochs instead"
            " of train.max_steps."
        )


# -- what only the results show ----------------------------------------------------------------------------------------


def edges(
    rows: Sequence[TrialRow], ties: Sequence[TrialRow], intervals: Mapping[str, tuple[float, float, bool]]
) -> list[str]:
    """Numeric settings whose best value is the smallest or the largest that was tried, a sentence each.

    Of several trials that tie, all must lie at the same end. An end that nothing can lie beyond is none: 0, and for
    whole numbers 1.

    Args:
        rows: all trials.
        ties: the best one and those that tie with it.
        intervals: those that were searched, by key: low, high, and whether by orders of magnitude.
    """
    tried = [row for row in rows if row.outcome.status not in (Status.FAILED, Status.CANCELLED)]
    keys = dict.fromkeys(key for row in ties for key in row.point if not key.endswith("seed"))
    return [sentence for key in keys for sentence in _edge(key, tried, ties, intervals.get(key))]


def _edge(
    key: str, tried: Sequence[TrialRow], ties: Sequence[TrialRow], interval: tuple[float, float, bool] | None
) -> Iterator[str]:
    best = [_number(row.point.get(key)) for row in ties]
    values = {value for row in tried if (value := _number(row.point.get(key))) is not None}
    if len(values) < 2 or any(value is None for value in best):
        return
    low, high = _ends(values, interval)
    text = ties[0].point[key]
    if all(value is not None and value >= high for value in best):
        yield _further(key, text, "largest", "larger", interval)
    elif all(value is not None and value <= low for value in best) and not _is_least(text):
        yield _further(key, text, "smallest", "smaller", interval)


def _further(key: str, text: str, most: str, more: str, interval: tuple[float, float, bool] | None) -> str:
    if interval is None:
        return f"{key}={shown(text)} is the {most} that was tried: try {more} ones."
    return f"{key}={shown(text)} is near the {most} of its interval ({interval[most == 'largest']:g}): try {more} ones."


def _ends(values: Collection[float], interval: tuple[float, float, bool] | None) -> tuple[float, float]:
    """Where the lower end begins and the upper one."""
    if interval is None:
        return min(values), max(values)
    low, high, is_log = interval
    if is_log:
        margin = (high / low) ** NEAR
        return low * margin, high / margin
    margin = NEAR * (high - low)
    return low + margin, high - margin


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _is_least(text: str) -> bool:
    return float(text) == 0 or text.strip() == "1"
