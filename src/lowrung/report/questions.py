"""Questions that a sweep puts badly: where its answer would be one to another question. Known before it runs."""

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from lowrung.config.schema import Config, is_converted
from lowrung.report.trial_names import listed

Key = TypeVar("Key")

ALIKE = 1.05
"""Trials are trained alike where none sees more than so many times the examples of another: last batches differ."""


@dataclasses.dataclass(frozen=True, slots=True)
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
    alike: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for one in recipes:
        if one.rank:
            alike.setdefault((one.variant, f"{one.scaling:.6g}"), []).append((one.rank, one.rate))
    for (variant, scaling), tried in alike.items():
        rates = _rates(tried)
        if pairs := _at_one_rate(rates):
            ranks = sorted({rank for pair in pairs for rank in pair})
            rate = min((rates[rank] for rank in ranks), key=len)
            root = "sqrt(r)" if "rslora" in variant else "r"
            yield (
                f"ranks {listed([str(rank) for rank in ranks])} are compared at one learning rate ({''.join(rate)})"
                f" with alpha / {root} at {scaling}: a larger rank then takes larger steps, so that this compares"
                " rates. Set lora.alpha=32, or search train.learning_rate too."
            )
            return


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
