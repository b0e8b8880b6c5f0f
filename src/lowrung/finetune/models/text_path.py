"""Which modules of a model text goes through: of one that takes images or sound too, a part.

A model's name for its language model is not asked for. Its forward pass is made on the meta device, where it has names
and shapes alone, with tokens and nothing else; the modules that are called are those that text goes through.
"""

import contextlib
import copy
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

TOKENS = 4

_found: "weakref.WeakKeyDictionary[PreTrainedModel, frozenset[str] | None]" = weakref.WeakKeyDictionary()


def has_other_inputs(model: PreTrainedModel) -> bool:
    """Whether a model is made of parts with configs of their own, such as a language model and a vision tower."""
    return bool(model.config.sub_configs)


def reached(model: PreTrainedModel) -> frozenset[str] | None:
    """The whole names of the modules that a forward pass over text calls, or None where it takes real numbers to see.

    That is so where the way of a token depends on what it is, as with experts that are modules of their own.

    Args:
        model: the base, with or without weights.
    """
    if model not in _found:
        _found[model] = _called(model)
    return _found[model]


def in_language_model(model: PreTrainedModel) -> frozenset[str]:
    """The whole names of the modules that text goes through, at least of those in what transformers calls the decoder.

    Args:
        model: the base, with or without weights.
    """
    called = reached(model)
    if called is not None:
        return called
    inside = {id(module) for module in model.get_decoder().modules()}
    return frozenset(name for name, module in model.named_modules() if id(module) in inside)


def _called(model: PreTrainedModel) -> frozenset[str] | None:
    tokens = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    # A mask of four dimensions is taken as it is; any other is looked into, and here it has no content.
    mask = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool, device="meta")
    for inputs in ({"input_ids": tokens, "attention_mask": mask}, {"input_ids": tokens}):
        called: set[str] = set()
        with contextlib.suppress(Exception), torch.device("meta"), torch.no_grad():
            twin: Any = type(model)(copy.deepcopy(model.config))
            twin.to(torch.bfloat16).eval()  # experts are multiplied in it alone, on this device
            with _noted(twin, called):
                twin(**inputs, use_cache=False)
            return frozenset(called)
    return None


@contextlib.contextmanager
def _noted(model: nn.Module, called: set[str]) -> Iterator[None]:
    """Notes the names of the modules that are called while the block runs."""
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
