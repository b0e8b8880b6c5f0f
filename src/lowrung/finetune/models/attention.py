"""Attention of examples that lie one behind the other in a row: each by itself, and none over all of the row.

A mask keeps such examples apart, but torch computes what it masks: 8 rows of 64 tokens as one row cost 8 times the
attention, which on a CPU is as much as their padding costs (SmolLM2-135M: 3.9 s of CPU time for a step, 3.1 example by
example).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_example"
"""What transformers calls it. Its masks are those of ``sdpa``, and so is all that it computes for other rows."""


def by_example(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Torch's attention, once for each example of a row.

    Where an example begins is where the position numbers begin again. Each has its part of the mask, so that a sliding
    window stays one.

    Args:
        module: the attention layer.
        query: shape (1, heads, tokens, width) for a row of several examples, as key and value.
        key: as many tokens as the query, unless there is a cache.
        value: of the key's tokens.
        attention_mask: shape (1, 1, tokens, tokens), true where a token sees another; None is causal.
        options: what a model gives its attention.
    """
    whole = (query, key, value, attention_mask)
    starts = _starts(query, key, options)
    if len(starts) < 2:
        return sdpa_attention_forward(module, *whole, **options)
    if attention_mask is not None:
        options["is_causal"] = True  # whatever the layer says: of a part without a mask, which was causal
    parts = zip(starts, [*starts[1:], query.shape[2]], strict=True)
    attended = [sdpa_attention_forward(module, *_part(*whole, start, end), **options)[0] for start, end in parts]
    return torch.cat(attended, dim=1), None


def _starts(query: Tensor, key: Tensor, options: dict[str, Any]) -> list[int]:
    """Where the examples of a row begin; none for several rows, a row with a cache, or a bias between positions."""
    positions = options.get("position_ids")
    if positions is None or len(query) != 1 or key.shape[2] != query.shape[2] or positions.shape != query.shape[::2]:
        return []
    if options.get("position_bias") is not None:
        return []
    starts: list[int] = (positions[0] == 0).nonzero().flatten().tolist()
    return starts if starts[:1] == [0] else []


def _part(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, start: int, end: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    tokens = slice(start, end)
    seen = None if mask is None else mask[:, :, tokens, tokens]
    if seen is not None and torch.equal(seen[0, 0], torch.ones_like(seen[0, 0]).tril()):
        seen = None  # causal, for which torch needs neither a mask nor a copy of each key for the queries that share it
    return query[:, :, tokens], key[:, :, tokens], value[:, :, tokens], seen


AttentionInterface.register(NAME, by_example)
AttentionMaskInterface.register(NAME, sdpa_mask)


def joins(model: Any) -> bool:
    """Whether a model's attention may take joined rows: torch's own on a CPU, or flash attention.

    Flash attention takes examples of unequal lengths by itself. On a GPU torch's own would compute a mask over the
    joined row, or many small products, which gain nothing for certain.
    """
    used = name(model)
    is_ours = used in ("sdpa", NAME) and _base(model).device.type == "cpu"
    return is_ours or used.startswith("flash_attention")


def settle(model: Any) -> None:
    """Has a model attend example by example, if it has torch's attention; `unsettle` takes it back."""
    change(model, "sdpa", NAME)


def unsettle(model: Any) -> None:
    """Gives a model transformers' own attention again."""
    change(model, NAME, "sdpa")


def change(model: Any, old: str, new: str) -> None:
    """Gives a model another attention in the place of this one, if it has this one."""
    base = _base(model)
    if name(base) == old:
        base.set_attn_implementation(_parts(base.config, old, new))


def name(model: Any) -> str:
    """What transformers calls a model's attention."""
    return str(_base(model).config._attn_implementation)


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _parts(config: Any, old: str, new: str) -> dict[str, str]:
    """The new attention for the model and those of its parts that have the old one; an encoder of images may not."""
    parts = {name: getattr(config, name) for name in config.sub_configs}
    used = {name: part._attn_implementation for name, part in parts.items() if part is not None}
    return {"": new, **{name: new if held == old else held for name, held in used.items() if held}}
