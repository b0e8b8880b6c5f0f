"""Which adapters can be combined into one, and how; the sums are PEFT's (``add_weighted_adapter``).

``cat`` and ``svd`` add the updates themselves: ``cat`` exactly, at the sum of the ranks; ``svd`` up to what a truncated
singular value decomposition leaves out. ``linear``, ``ties`` (arXiv:2306.01708), ``dare_linear`` and ``dare_ties``
(arXiv:2311.03099) and ``magnitude_prune`` work on the factors A and B apart, which is rough: the product of two sums
has cross terms. With ``_svd`` they work on the updates.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from peft import LoraConfig

ON_FACTORS = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
"""They need the same rank in every layer of every part."""

METHODS = ("cat", "svd", *ON_FACTORS, "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")

PRUNING = ("ties", "dare", "magnitude_prune")
"""How the methods begin that keep a share of the numbers."""


@dataclasses.dataclass(frozen=True)
class Part:
    """An adapter that is to be combined.

    Attributes:
        name: what it is called in messages.
        config: its settings.
        ranks: those of its layers.
        narrowest: the smallest dimension of any layer that it adapts: no update has a higher rank.
        has_more: whether it brings more than low-rank updates: trained biases, whole modules or an embedding.
    """

    name: str
    config: LoraConfig
    ranks: frozenset[int]
    narrowest: int
    has_more: bool


def problems(
    parts: Sequence[Part], weights: Mapping[str, float], *, method: str, rank: int | None, density: float | None
) -> list[str]:
    """Why adapters cannot be combined so, in words; the arguments are those of `lowrung.adapters.loaded.Loaded`."""
    if method not in METHODS:
        return [f"method must be one of {', '.join(METHODS)}, but is {method!r}."]
    return [*_number_problems(weights, method, rank, density), *_part_problems(parts, method, rank)]


def _number_problems(
    weights: Mapping[str, float], method: str, rank: int | None, density: float | None
) -> Iterator[str]:
    if len(weights) < 2:
        yield f"At least two adapters can be combined, but there is {len(weights)}. Name another."
    if wrong := [f"{weight:g}" for weight in weights.values() if not math.isfinite(weight) or weight == 0]:
        yield f"weights must be numbers other than 0, but are {', '.join(wrong)}. Leave that adapter out."
    if method.startswith(PRUNING) and (density is None or not 0 < density <= 1):
        yield f"density must be over 0 and at most 1 for {method}: the share of numbers that is kept, but is {density}."
    if not method.startswith(PRUNING) and density is not None:
        yield f"density is for methods that prune, but method is {method}. Leave it out, or take another method."
    if not method.endswith("svd") and rank is not None:
        yield f"rank is for methods that end in svd, but method is {method}. Leave it out, or take another method."


def _part_problems(parts: Sequence[Part], method: str, rank: int | None) -> Iterator[str]:
    for part in parts:
        more = [
            name
            for name, used in (
                ("DoRA's magnitudes", part.config.use_dora),
                ("trained biases, modules or embeddings", part.has_more or bool(part.config.modules_to_save)),
                ("layers_to_transform", part.config.layers_to_transform is not None),
                ("trainable_token_indices", part.config.trainable_token_indices is not None),
            )
            if used
        ]
        if more:
            yield (
                f"{part.name} must be low-rank updates alone to be combined, but has {' and '.join(more)}. PEFT would"
                " drop that."
            )
    ranks = frozenset[int]().union(*(part.ranks for part in parts))
    if method in ON_FACTORS and len(ranks) > 1:
        listed = ", ".join(f"{part.name} has {'/'.join(map(str, sorted(part.ranks)))}" for part in parts)
        better = "svd" if method == "linear" else f"{method}_svd"
        yield f"{method} needs the same rank everywhere, but {listed}. Take {better}, which does not."
    narrowest = min((part.narrowest for part in parts), default=0)
    wanted = max(ranks, default=0) if rank is None else rank
    if method.endswith("svd") and parts and not 1 <= wanted <= narrowest:
        yield f"rank must be from 1 to {narrowest}, the narrowest layer's dimension, but is {wanted}."
