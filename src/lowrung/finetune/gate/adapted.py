"""An adapter on its base, and what the two say."""

import dataclasses
from collections.abc import Sequence

from peft import PeftModel
from torch import Tensor

from lowrung.finetune.gate.difference import completion_logits
from lowrung.finetune.models.head import Row


@dataclasses.dataclass(frozen=True)
class Adapted:
    """An adapter on its base, and what the two say of some rows.

    Attributes:
        model: the base with the adapter.
        logits: over the rows' completions.
        labels: their tokens.
        seconds: the time of each forward pass, per token.
    """

    model: PeftModel
    logits: Tensor
    labels: Tensor
    seconds: Sequence[float]

    @classmethod
    def of(cls, model: PeftModel, rows: Sequence[Row]) -> "Adapted":
        """Lets the two read the rows."""
        seconds: list[float] = []
        logits, labels = completion_logits(model, rows, seconds=seconds)
        return cls(model, logits, labels, seconds)
