"""What the gate is given: an adapter, and the evidence of the model that was trained."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.finetune.gate.difference import Difference, batches, compare, completion_logits
from lowrung.finetune.models.ends import Ends
from lowrung.finetune.models.head import LabelledLogits, Row


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is left of the trained model to compare with, once its memory is freed.

    Attributes:
        rows: held-out rows.
        logits: the trained model's `completion_logits` of them, before it was saved.
        dtype: the precision that it was trained in.
        ends: where its answers end, as what is saved must say.
        training: how far the logits that its loss was computed from are from those.
    """

    rows: Sequence[Row]
    logits: Tensor
    dtype: torch.dtype
    ends: Ends
    training: Difference | None = None

    @classmethod
    def of(
        cls,
        model: Any,
        rows: Sequence[Row],
        dtype: torch.dtype,
        ends: Ends,
        labelled_logits: LabelledLogits | None = None,
    ) -> "Evidence":
        """Takes it from a trained model; ``labelled_logits`` is how its loss was computed."""
        logits, labels = completion_logits(model, rows)
        if labelled_logits is None:
            return cls(rows, logits, dtype, ends)
        with torch.no_grad():
            trained = torch.cat([labelled_logits(model, batch)[0].float().cpu() for batch in batches(rows, model)])
        return cls(rows, logits, dtype, ends, compare(logits, trained, labels))

    def failures(self, tolerances: Mapping[str, ToleranceConf]) -> list[str]:
        """Was the loss computed from what the model itself says?"""
        return self.training.violations(self.tolerance(tolerances), "training") if self.training else []

    def tolerance(self, tolerances: Mapping[str, ToleranceConf]) -> ToleranceConf:
        """The tolerance, of those by dtype, for what was trained and the same reloaded."""
        return tolerances[str(self.dtype).removeprefix("torch.")]


@dataclasses.dataclass(frozen=True)
class Case:
    """A saved adapter that is to be verified.

    Attributes:
        base: the base model, with the settings that it was loaded with. A quantised one is dequantised
            before the merge.
        adapter_folder: the saved adapter with its tokenizer.
        evidence: the trained model's logits of held-out rows.
        new_tokens: tokens generated greedily from each prompt.
        merge_dtype: the precision that the merged model would be exported in.
        tolerances: by dtype's name; float32, the trained and the merge dtype are needed.
        scratch: a folder for merged models, by dtype; deleted afterwards.
        base_folder: where is kept what was computed of this base and these data; None keeps nothing.
    """

    base: ModelConf
    adapter_folder: Path
    evidence: Evidence
    new_tokens: int
    merge_dtype: str
    tolerances: Mapping[str, ToleranceConf]
    scratch: Path
    base_folder: Path | None = None

    @property
    def rows(self) -> Sequence[Row]:
        """The held-out rows that are compared."""
        return self.evidence.rows

    @property
    def dtypes(self) -> Sequence[str]:
        """The precisions of the merged models, float32 first."""
        return list(dict.fromkeys(("float32", self.merge_dtype)))
