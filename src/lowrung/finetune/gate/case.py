"""What the gate is given: an adapter, and the evidence of the model that was trained."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.finetune.gate.difference import batches, compare, completion_logits
from lowrung.finetune.models import attention
from lowrung.finetune.models.ends import Ends
from lowrung.finetune.models.head import LabelledLogits, Row, on_joined_rows


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is left of the trained model to compare with, once its memory is freed.

    Attributes:
        rows: held-out rows.
        logits: what the trained model said of their completions, in the shape of `completion_logits`, before it was
            saved: what its loss is computed from.
        dtype: the precision that it was trained in.
        ends: where its answers end, as what is saved must say.
        way: how the logits were computed; None is by the model's own forward pass.
    """

    rows: Sequence[Row]
    logits: Tensor
    dtype: torch.dtype
    ends: Ends
    way: LabelledLogits | None = None

    @classmethod
    def of(
        cls,
        model: Any,
        rows: Sequence[Row],
        dtype: torch.dtype,
        ends: Ends,
        way: LabelledLogits | None = None,
        known: Sequence[Tensor] = (),
    ) -> "Evidence":
        """Takes it from a trained model; ``known`` are the logits of the first rows, as its evaluation had them."""
        if way is None:
            return cls(rows, completion_logits(model, rows)[0], dtype, ends)
        rest = rows[len(known) :]
        return cls(rows, torch.cat([*known, *_by(way, model, rest)]), dtype, ends, way)

    def failures(
        self, model: Any, logits: Tensor, labels: Tensor, tolerances: Mapping[str, ToleranceConf], what: str
    ) -> list[str]:
        """Is a model that was loaded from the disk the trained one, and was the loss computed from what it says?

        Where it is not, the model is asked in the way of training too, to say which of the two is wrong.

        Args:
            model: as reloaded.
            logits: what its own forward pass says of the rows.
            labels: their tokens.
            tolerances: by dtype.
            what: names the model.
        """
        tolerance = self.tolerance(tolerances)
        broken = compare(self.logits, logits, labels).violations(tolerance, what)
        if not broken or self.way is None:
            return broken
        if self.way is on_joined_rows:
            attention.settle(model)
        so = torch.cat(_by(self.way, model, self.rows))
        attention.unsettle(model)
        apart = [
            *compare(self.logits, so, labels).violations(tolerance, what),
            *compare(logits, so, labels).violations(tolerance, "training"),
        ]
        return apart or broken

    def tolerance(self, tolerances: Mapping[str, ToleranceConf]) -> ToleranceConf:
        """The tolerance, of those by dtype, for what was trained and the same reloaded."""
        return tolerances[str(self.dtype).removeprefix("torch.")]


@torch.no_grad()
def _by(way: LabelledLogits, model: Any, rows: Sequence[Row]) -> list[Tensor]:
    """What a model says of the rows' completions when it is asked in the way of training."""
    return [way(model, batch)[0].float().cpu() for batch in batches(rows, model)] if rows else []


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
