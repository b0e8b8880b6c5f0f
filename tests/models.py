"""Models whose forward pass does what no config tells: a Llama of `tests.architectures` with something of its own."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from tests import architectures

Change = Callable[[Any, Tensor], Tensor]
"""Takes the model and its logits of shape (batch, tokens, vocabulary), or fewer dimensions; returns others."""


def changing_logits(change: Change) -> LlamaForCausalLM:
    """A model that changes the logits of its head; it has a bias of its own for that, ``extra``."""

    class Changing(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output: Any = super().forward(*args, **kwargs)
            output.logits = change(self, output.logits)
            return output

    return _random(Changing)


def changing_hidden_states(change: Change) -> LlamaForCausalLM:
    """A model that changes the hidden states between its backbone and its head."""

    class Changing(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            lm_head, self.lm_head = self.lm_head, _Before(self, change, self.lm_head)
            try:
                return super().forward(*args, **kwargs)
            finally:
                self.lm_head = lm_head

        def get_output_embeddings(self) -> nn.Module:
            return self.lm_head.after if isinstance(self.lm_head, _Before) else self.lm_head

    return _random(Changing)


class _Before(nn.Module):
    def __init__(self, model: nn.Module, change: Change, after: nn.Module) -> None:
        super().__init__()
        self.change, self.after = change, after
        self.model = [model]  # no submodule: it would hold itself

    def forward(self, hidden: Tensor) -> Any:
        return self.after(self.change(self.model[0], hidden))


def _random(kind: type[LlamaForCausalLM]) -> LlamaForCausalLM:
    config = copy.deepcopy(architectures.CONFIGS["llama"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = kind(config)  # type: ignore[arg-type]
        model.extra = nn.Parameter(torch.randn(config.vocab_size))
    model.eval()
    return model  # type: ignore[no-any-return]


def smoothed(_: nn.Module, logits: Tensor) -> Tensor:
    """Logits that depend on those of the position before: the head cannot see labelled positions alone."""
    return logits + functional.pad(logits, (0, 0, 1, 0))[..., :-1, :]
