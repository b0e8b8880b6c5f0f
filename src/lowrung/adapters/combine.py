"""Several adapters combined into one; the sums of the low-rank updates are PEFT's (``add_weighted_adapter``).

``cat`` and ``svd`` add the updates themselves: ``cat`` exactly, at the sum of the ranks; ``svd`` up to what a truncated
singular value decomposition leaves out. ``linear``, ``ties`` (arXiv:2306.01708), ``dare_linear`` and ``dare_ties``
(arXiv:2311.03099) and ``magnitude_prune`` combine the factors A with each other and the factors B with each other. That
is rough: the product of two sums has cross terms. With ``_svd`` the pruning ones work on the updates.

All else that was trained (biases, whole modules, single rows of a matrix) is summed by weight, whatever the method: the
base's tensor, plus each part's weight times its change of that tensor.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import cast_adapter_dtype
from torch import Tensor

from lowrung.adapters import extras, options
from lowrung.adapters.base_tensors import BaseTensors
from lowrung.adapters.extras import LoadedAdapter, MatrixRows, module_of
from lowrung.adapters.options import Use
from lowrung.finetune.models import generators

ON_FACTORS = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
"""They need the same rank in every layer of every part."""

METHODS = ("cat", "svd", *ON_FACTORS, "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")

PRUNING = ("ties", "dare", "magnitude_prune")
"""The names of methods that keep a share of the numbers begin so."""


@dataclasses.dataclass(frozen=True)
class Method:
    """How adapters are combined.

    Attributes:
        name: one of `METHODS`.
        rank: the new adapter's, for methods that end in ``svd``; None is the parts' highest.
        density: the share of numbers that is kept, for methods that prune.
        seed: of the numbers that DARE drops.
    """

    name: str
    rank: int | None = None
    density: float | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """An adapter that is to be combined.

    Attributes:
        name: its name in messages.
        weight: what its update is multiplied by.
        adapter: the adapter.
        ranks: the ranks of its layers.
        narrowest: the smallest dimension of any layer that it adapts: no update has a higher rank.
        in_tied_rows: the matrices that are tied to each other and of which it trains single rows.
        adapts_embedding: whether LoRA is on the embedding.
    """

    name: str
    weight: float
    adapter: LoadedAdapter
    ranks: frozenset[int]
    narrowest: int
    in_tied_rows: frozenset[str]
    adapts_embedding: bool

    @classmethod
    def of(cls, name: str, weight: float, adapter: LoadedAdapter, model: Any, base: BaseTensors) -> "Part":
        """A loaded adapter as a part.

        Args:
            name: its name in messages.
            weight: what its update is multiplied by.
            adapter: the adapter.
            model: PEFT's model, which holds its layers.
            base: the base's tensors.
        """
        layers: list[Any] = [each for each in model.modules() if isinstance(each, LoraLayer) and adapter.key in each.r]
        return cls(
            name,
            weight,
            adapter,
            frozenset(int(layer.r[adapter.key]) for layer in layers),
            min(min(layer.in_features, layer.out_features) for layer in layers),
            frozenset(map(module_of, base.tied(adapter.rows))),
            any(adapter.key in layer.lora_embedding_A for layer in layers),
        )

    @property
    def whole(self) -> frozenset[str]:
        """The modules of which it has whole tensors, trained biases among them."""
        return frozenset(map(module_of, self.adapter.whole))

    @property
    def bias(self) -> Any:
        """PEFT's setting; ``none`` where the base has no biases of that kind."""
        return self.adapter.config.bias if any(name.endswith(".bias") for name in self.adapter.whole) else "none"


def problems(parts: Sequence[Part], method: Method) -> list[str]:
    """Why adapters cannot be combined so, in words."""
    if method.name not in METHODS:
        return [f"method must be one of {', '.join(METHODS)}, but is {method.name!r}."]
    return [*_number_problems(parts, method), *_part_problems(parts, method)]


def combine(parts: Sequence[Part], method: Method, key: str, model: Any, base: BaseTensors) -> LoadedAdapter:
    """Adds to PEFT's model the low-rank part of a combined adapter; returns that adapter.

    All of the base's tensors are its own afterwards: those of no adapter replace them.

    Args:
        parts: adapters that have no `problems`.
        method: how.
        key: PEFT's name of the new adapter.
        model: PEFT's model.
        base: the base's tensors.
    """
    adapters = [part.adapter for part in parts]
    _add_low_rank(parts, method, key, model)
    sums = _sums(parts, base)
    whole = {name: sums[name] for adapter in adapters for name in adapter.whole}
    rows = {
        matrix: MatrixRows(indices, sums[matrix][indices])
        for matrix, indices in extras.trained_rows(adapters).items()
        if matrix not in whole
    }
    settings: LoraConfig = model.peft_config[key]
    config = dataclasses.replace(
        settings,
        bias=parts[0].bias,
        modules_to_save=sorted({name for each in adapters for name in each.config.modules_to_save or ()}) or None,
        trainable_token_indices={module_of(matrix): list(each.indices) for matrix, each in rows.items()} or None,
    )
    return LoadedAdapter(key, config, adapters[0].folder, whole, rows)


def _add_low_rank(parts: Sequence[Part], method: Method, key: str, model: Any) -> None:
    first = parts[0].adapter.key
    settings = model.peft_config[first]
    # PEFT folds each part's scaling into the new factors and sets alpha to the rank, so that the new scaling is 1;
    # but it copies use_rslora from the first part, and then the scaling is sqrt(rank).
    has_biases = any(part.adapter.config.lora_bias for part in parts)
    model.peft_config[first] = dataclasses.replace(settings, use_rslora=False, lora_bias=has_biases)
    try:
        with generators.kept(model), torch.no_grad(), _made_in_float32(model, key):
            torch.manual_seed(method.seed)
            model.add_weighted_adapter(
                [part.adapter.key for part in parts],
                [part.weight for part in parts],
                key,
                combination_type=method.name,
                svd_rank=method.rank,
                svd_full_matrices=False,  # the rest is cut off, and takes 0.8 GB for a layer of 14336 x 4096
                density=method.density,
            )
    finally:
        model.peft_config[first] = settings
    _add_biases(parts, key, model)
    _make_contiguous(model, key)


@contextlib.contextmanager
def _made_in_float32(model: Any, key: str) -> Iterator[None]:
    """Has PEFT make the new adapter in float32, as it loads any.

    Left alone, it makes it in the base's precision, and ``cat`` and the biases of LoRA are rounded to that: an update
    by 0.3 % in bfloat16, which is what a GPU loads.
    """
    tuner = model.base_model
    inject = tuner.inject_adapter

    def inject_in_float32(*args: Any, **options: Any) -> None:
        inject(*args, **options)
        cast_adapter_dtype(tuner, key)

    tuner.inject_adapter = inject_in_float32
    try:
        yield
    finally:
        del tuner.inject_adapter


@torch.no_grad()
def _add_biases(parts: Sequence[Part], key: str, model: Any) -> None:
    """Sums the biases of LoRA, which PEFT leaves at zero. The new scaling is 1, so they take that of their part in."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and key in layer.lora_B and layer.lora_bias[key]:
            for part in parts:
                if layer.lora_bias.get(part.adapter.key):
                    bias: Any = layer.lora_B[part.adapter.key].bias
                    layer.lora_B[key].bias += part.weight * layer.scaling[part.adapter.key] * bias


def _make_contiguous(model: Any, key: str) -> None:
    """Makes an adapter's factors contiguous, as they come back from a file: a decomposition leaves views.

    A matrix product adds up in another order over a view than over contiguous numbers. On CPUs without AVX-512 the
    logits then differed in their last bits from those of the reloaded adapter.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for factors in (layer.lora_A, layer.lora_B):
                if key in factors:
                    weight: Any = factors[key].weight
                    weight.data = weight.data.contiguous()


def _sums(parts: Sequence[Part], base: BaseTensors) -> dict[str, Tensor]:
    """W + Σ wᵢ (Wᵢ - W) in float32 of each tensor W of the base that a part replaces, by name.

    The parts' tensors are taken as they were saved: in the model they have the base's precision.
    """
    base.restore()
    sums: dict[str, Tensor] = {}
    for part in parts:
        for name, trained in part.adapter.replacements(base, torch.float32).items():
            original = base.original(name).float()
            sums[name] = sums.get(name, original) + part.weight * (trained.to(original) - original)
    return sums


def _number_problems(parts: Sequence[Part], method: Method) -> Iterator[str]:
    density = method.density
    if len(parts) < 2:
        yield f"combine needs at least two adapters, but has {len(parts)}. Name another."
    if wrong := [f"{part.weight:g}" for part in parts if not math.isfinite(part.weight) or part.weight == 0]:
        yield f"weights must be finite and not 0, but some are {', '.join(wrong)}. Leave out an adapter of weight 0."
    prunes = method.name.startswith(PRUNING)
    if prunes and (density is None or not 0 < density <= 1):
        yield (
            f"density must be above 0 and at most 1 for {method.name}, but is {density}. It is the share of numbers"
            " that is kept."
        )
    if not prunes and density is not None:
        yield f"density is for methods that prune, but method is {method.name}. Leave it out, or take another method."
    if not method.name.endswith("svd") and method.rank is not None:
        yield f"rank is for methods that end in svd, but method is {method.name}. Leave it out, or take another method."


def _part_problems(parts: Sequence[Part], method: Method) -> Iterator[str]:
    for part in parts:
        for problem in options.problems(part.adapter.config, Use.COMBINE):
            yield f"{part.name}: {problem}"
    if any(part.adapter.config.lora_bias for part in parts) and (
        embeds := [part.name for part in parts if part.adapts_embedding]
    ):
        yield (
            f"lora_bias must be unset beside an adapter of the embedding, since PEFT has no such biases there, but"
            f" {' and '.join(embeds)} adapts it. Leave one out."
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
    if method.name in ON_FACTORS and len(ranks) > 1:
        listed = ", ".join(f"{part.name} has {'/'.join(map(str, sorted(part.ranks)))}" for part in parts)
        better = "svd" if method.name == "linear" else f"{method.name}_svd"
        yield f"{method.name} needs the same rank everywhere, but {listed}. Take {better}, which does not."
    narrowest = min((part.narrowest for part in parts), default=0)
    wanted = max(ranks, default=0) if method.rank is None else method.rank
    if method.name.endswith("svd") and parts and not 1 <= wanted <= narrowest:
        yield f"rank must be from 1 to {narrowest}, the narrowest layer's dimension, but is {wanted}."
