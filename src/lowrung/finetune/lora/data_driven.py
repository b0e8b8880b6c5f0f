"""Inits that are computed from training examples: EVA and CorDA from each layer's inputs, LoRA-GA from gradients.

The examples go through the model one at a time, so that nothing is padded and no batch size matters.
"""

import heapq
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor, nn
from transformers import PreTrainedModel

from lowrung.config.schema import LoraConf
from lowrung.errors import UsageError
from lowrung.finetune.lora import settings
from lowrung.finetune.models import head, score
from lowrung.finetune.models.head import Row

RHO = 2
"""How many times its own rank EVA may give a layer; the paper's choice."""


def prepare_corda(model: PreTrainedModel, config: LoraConfig, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Leaves at each layer what CorDA's start is made of (arXiv:2406.05223, instruction-previewed), for PEFT to take.

    Holds a float32 matrix of (in, in) for each adapted layer meanwhile.

    Raises:
        UsageError: when no example reaches a layer.
    """

    @torch.no_grad()
    def pass_all() -> None:
        for batch in _each(model, rows, "corda"):
            _forward(model, batch)
        _require(names, lambda layer: layer.sample_count > 0, model, "corda", len(rows))

    preprocess_corda(model, config, run_model=pass_all)


def prepare_lora_ga(model: PreTrainedModel, config: LoraConfig, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Leaves at each layer its weight's mean gradient, which LoRA-GA's start is made of (arXiv:2407.05000), for PEFT.

    Holds the gradients of all adapted weights meanwhile.

    Raises:
        UsageError: when no example reaches a layer, to which PEFT would give another start.
    """

    def pass_all() -> None:
        for batch in _each(model, rows, "lora_ga"):
            logits, labels = head.on_all_tokens(model, batch)
            (score.negative_log_likelihood(logits, labels) / labels.numel()).backward()  # type: ignore[no-untyped-call]
        _require(names, lambda layer: layer._peft_loraga_grad_count > 0, model, "lora_ga", len(rows))

    with warnings.catch_warnings():  # PEFT counts passes by a hook that is made for more
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        preprocess_loraga(model, config, pass_all)


def eva(model: PreTrainedModel, names: Sequence[str], lora: LoraConf, rows: Sequence[Row]) -> dict[str, Tensor]:
    """The directions in which the inputs of each layer vary most, over the tokens that are learnt (arXiv:2410.07170).

    All ranks together are as many as in the settings. They go to the directions that explain the largest shares of
    their layer's variance; a layer gets at most `RHO` times its own rank, and may get none. PEFT's own pass finds such
    directions by repetition until they stay, and never ends where a batch has fewer tokens than it seeks directions.
    Holds a float32 matrix of (in, in) for each adapted layer meanwhile.

    Args:
        model: the base.
        names: the whole names of the layers to adapt.
        lora: the adapter's settings.
        rows: the training examples.

    Returns:
        A's start of shape (rank, in) for each layer that gets a rank, by name.

    Raises:
        UsageError: when no example reaches a layer.
    """
    shares, directions = {}, {}
    for name, scatter in _scatters(model, names, rows).items():
        most = min(RHO * settings.rank(lora, name), len(scatter))
        _, variances, vectors = torch.svd_lowrank(scatter, q=min(2 * most, len(scatter)), niter=4)
        shares[name] = (variances[:most] / scatter.trace().clamp_min(1e-30)).tolist()
        directions[name] = vectors[:, :most].T
    candidates = ((share, name) for name, each in shares.items() for share in each)
    budget = sum(settings.rank(lora, name) for name in names)
    ranks = Counter(name for _, name in heapq.nlargest(budget, candidates))
    return {name: directions[name][: ranks[name]].contiguous() for name in names if ranks[name]}


def scaled_alpha(alpha: float, old: int, new: int, *, use_rslora: bool) -> float:
    """The alpha that keeps a layer's scaling when its rank changes."""
    return alpha * (math.sqrt(new / old) if use_rslora else new / old)


@torch.no_grad()
def _scatters(model: PreTrainedModel, names: Sequence[str], rows: Sequence[Row]) -> dict[str, Tensor]:
    """The scatter matrix, (in, in), of each layer's inputs at the tokens that are learnt: centred, but not divided."""
    products: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    counts = Counter[str]()
    is_learnt = torch.empty(0)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            wide = inputs[0].flatten(end_dim=-2).float()
            # An expert of a mixture sees some tokens, in an order of its own: there all of them count.
            seen = wide[is_learnt.to(wide.device)] if len(wide) == len(is_learnt) else wide
            if name not in products:
                width = wide.shape[1]
                products[name], sums[name] = wide.new_zeros(width, width), wide.new_zeros(width)
            products[name].addmm_(seen.T, seen)  # in place: these matrices are larger than all else that is touched
            sums[name].add_(seen.sum(0))
            counts[name] += len(seen)

        return add

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    try:
        for batch in _each(model, rows, "eva"):
            is_learnt = (batch["labels"] != -100).flatten()
            _forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    _refuse([name for name in names if not counts[name]], "eva", len(rows))
    return {name: products[name] - torch.outer(sums[name], sums[name]) / counts[name] for name in names}


def _each(model: PreTrainedModel, rows: Sequence[Row], init: str) -> Iterator[head.Batch]:
    """One row at a time on the model's device; prints its progress four times."""
    interval = max(1, len(rows) // 4)
    for number, row in enumerate(rows, 1):
        yield {name: torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels")}
        if number % interval == 0 or number == len(rows):
            print(f"lora.init={init}: {number} of {len(rows)} examples", flush=True)


def _forward(model: Any, batch: head.Batch) -> None:
    """The model's own forward pass: some have layers behind all that their ``base_model`` holds."""
    model(input_ids=batch["input_ids"], use_cache=False)


def _require(
    names: Sequence[str], is_seen: Callable[[Any], bool], model: PreTrainedModel, init: str, count: int
) -> None:
    _refuse([name for name in names if not is_seen(model.get_submodule(name))], init, count)


def _refuse(unseen: Sequence[str], init: str, count: int) -> None:
    if unseen:
        raise UsageError(
            [
                f"lora.init={init} needs examples that reach every adapted layer, but none of {count} reaches"
                f" {unseen[0]}. Raise lora.init_examples, or leave that layer out of lora.target_modules."
            ]
        )
