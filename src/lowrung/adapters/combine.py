"""Which adapters can be combined into one, and how; the sums are PEFT's (``add_weighted_adapter``).

``cat`` and ``svd`` add the updates themselves: ``cat`` exactly, at the sum of the ranks; ``svd`` up to what a truncated
singular value decomposition leaves out. ``linear``, ``ties`` (arXiv:2306.01708), ``dare_linear`` and ``dare_ties``
(arXiv:2311.03099) and ``magnitude_prune`` work on the factors A and B apart, which is rough: the product of two sums
has cross terms. With ``_svd`` they work on the updates.

Whatever the method, all else that was trained (biases, whole modules, single rows of a matrix) is summed as ``cat``
sums updates: the base's, and of each part its weight times what it changed.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

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
        use_dora: whether it has DoRA's magnitudes.
        bias: PEFT's setting; ``none`` where the base has no such biases.
        ranks: those of its layers.
        narrowest: the smallest dimension of any layer that it adapts: no update has a higher rank.
        whole: the modules that it brings whole, trained biases among them.
        in_tied_rows: the matrices that are tied to each other and of which it trains single rows.
    """

    name: str
    use_dora: bool
    bias: str
    ranks: frozenset[int]
    narrowest: int
    whole: frozenset[str]
    in_tied_rows: frozenset[str]


def problems(
    parts: Sequence[Part], weights: Mapping[str, float], *, method: str, rank: int | None, density: float | None
) -> list[str]:
    """Why adapters cannot be combined so, in words; the arguments are those of `multi_adapter.Loaded.combine`."""
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
        if part.use_dora:
            yield (
                f"{part.name} must be without DoRA to be combined: a sum of directions has no magnitudes of its own,"
                " and PEFT would drop them. Ask both side by side (lowrung generate), or train without lora.use_dora."
            )
    if len({part.bias for part in parts}) > 1:
        listed = ", ".join(f"{part.name} has {part.bias}" for part in parts)
        yield f"bias must be the same in all adapters to be combined, but {listed}. Leave one out."
    whole = frozenset[str]().union(*(part.whole for part in parts))
    for part in parts:
        rivals = part.in_tied_rows & whole
        if rivals and rivals != part.in_tied_rows:  # PEFT trains neither of two tied matrices whole beside rows
            yield (
                f"{part.name} trains rows of {' and '.join(sorted(part.in_tied_rows))}, which are tied, but another"
                f" adapter trains {' and '.join(sorted(rivals))} whole. Leave one out."
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
