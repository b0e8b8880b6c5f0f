"""What a pass over a model takes, by the sizes of its layers, where it cannot be counted."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from lowrung.finetune.lora import settings
from lowrung.finetune.passes import Counted

CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k", "moe_top_k")
"""How configs call the number of experts that a token goes to."""


def passes(
    model: PreTrainedModel, trained: Sequence[Tensor], lengths: Sequence[int], *, is_full: bool
) -> list[Counted]:
    """Of a row of each length: each layer multiplies once, and keeps what goes in and what comes out.

    In SmolLM2-135M with LoRA on all linear layers this is 1% more than what is kept. Attention itself is left out.

    Args:
        model: the base's skeleton.
        trained: what is trained.
        lengths: in tokens.
        is_full: whether that is the base.
    """
    layers: Sequence[Any] = list(settings.all_linear_layers(model).values())
    stacks = list(settings.experts(model).values())
    share = _chosen(model)
    products = sum(layer.weight.numel() for layer in layers) + share * sum(stack[0].numel() for stack in stacks)
    ends = sum(sum(layer.weight.shape) for layer in layers) + share * sum(sum(stack.shape[1:]) for stack in stacks)
    embedding: Any = model.get_input_embeddings()
    width = int(embedding.weight.shape[1])
    blocks = max(1, int(getattr(model.config.get_text_config(), "num_hidden_layers", 1)))
    own = 0 if is_full else sum(each.numel() for each in trained)
    held = next((each.element_size() for each in model.parameters()), 4)
    return [
        Counted(
            forward=2.0 * length * (products + own),
            backward=2.0 * length * (products * (2 if is_full else 1) + 2 * own),
            saved=float(length * ends * held),
            checkpointed=float(length * held * (width * blocks + ends / blocks)),
        )
        for length in lengths
    ]


def _chosen(model: PreTrainedModel) -> int:
    """The experts that a token goes to; one, where the config does not say."""
    config = model.config.get_text_config()
    return next((int(value) for name in CHOSEN if isinstance(value := getattr(config, name, None), int)), 1)
