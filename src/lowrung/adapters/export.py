"""Export of a merged model: saved aside, reloaded, compared with the adapter, then moved to its folder."""

import dataclasses
import gc
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lowrung.adapters import compatibility, files, vocabulary
from lowrung.adapters.options import Use
from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.costs.units import size
from lowrung.errors import LowrungError, UsageError, blaming
from lowrung.finetune.data import tokens
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import Format
from lowrung.finetune.gate.difference import Difference, compare, completion_logits, with_remedy
from lowrung.finetune.lora import merge
from lowrung.finetune.models import added_tokens, pretrained
from lowrung.finetune.models.head import Row
from lowrung.store import atomic, disk

TEXTS = (
    "The river had risen overnight, and by morning the lower road was under water.",
    "A prime number is a whole number greater than 1 that has no divisors but 1 and itself.",
    "def area(width, height):\n    return width * height",
    "Please find attached the minutes of our last meeting, and let me know if anything is missing.",
)
"""Texts to compare models on where there are no held-out examples."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of a parameter on the disk."""


@dataclasses.dataclass(frozen=True)
class MergedModel:
    """A merged model and how it was verified.

    Attributes:
        folder: where it is.
        dtype: its precision.
        difference: how far the model as reloaded is from the adapter on its base in float32.
        effect: mean KL between the base and the adapter, in nats: how much there was to merge.
        examples: what they were compared on, in words.
    """

    folder: Path
    dtype: str
    difference: Difference
    effect: float
    examples: str

    @property
    def verified(self) -> str:
        """How the model was verified, in words."""
        return (
            f"reloaded from the disk and compared with the adapter in float32 on {self.examples}: max |Δlogit|"
            f" {self.difference.max_abs_logit_diff:.2g}, mean KL {self.difference.mean_kl:.2g} (the adapter's own"
            f" effect: {self.effect:.2g}), top-1 agreement {self.difference.top1_agreement:.4f}"
        )


def export(
    *,
    base: ModelConf,
    adapter: Path,
    folder: Path,
    dtype: str,
    format: Format,
    rows: Sequence[Row],
    tolerance: ToleranceConf,
    card: Callable[[MergedModel], str],
) -> MergedModel:
    """Merges an adapter into its base and leaves a folder with safetensors, tokenizer, generation config and a card.

    The update is added in float32 and rounded once. The model is reloaded from the disk and compared with the adapter.
    The folder appears when both agree, or not at all.

    Args:
        base: the base; a quantised one is dequantised.
        adapter: the adapter's folder.
        folder: where to; not there yet, or empty.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        format: how prompts are formatted, which says where answers end.
        rows: held-out examples to compare on; none for `TEXTS`.
        tolerance: how far the merged model may be from the adapter.
        card: makes the text of README.md.

    Raises:
        UsageError: when the adapter is bad, the folder not empty, or the disk too small.
        LowrungError: when the merged model differs from the adapter.
    """
    saved = files.read(adapter)
    compatibility.check(saved, base, Use.MERGE)
    check_target(folder, _bytes(base, dtype))
    examples = f"{len(rows)} held-out examples" if rows else f"{len(TEXTS)} texts"
    compared = [*(rows or _text_rows(base, adapter)), *added_tokens.examples(pretrained.added_rows(base))]

    def fill(aside: Path) -> MergedModel:
        untrained, reference = _save_merged(base, adapter, aside, dtype, compared)
        vocabulary.ends_of(base, adapter, format).write(aside)
        gc.collect()
        trusted = base.trust_remote_code
        with blaming("The merged model, reloaded from the disk,"):
            device = pretrained.device()
            reloaded = pretrained.load_model(aside, getattr(torch, dtype), device, trust_remote_code=trusted)
            logits, labels = completion_logits(reloaded, compared)
        effect = compare(reference, untrained, labels).mean_kl
        merged = MergedModel(folder, dtype, compare(reference, logits, labels), effect, examples)
        _verify(merged, tolerance)
        (aside / "README.md").write_text(card(merged), encoding="utf-8")
        return merged

    return atomic.make_folder(folder, fill)


def check_target(folder: Path, needed: int) -> None:
    """Refuses a folder that is not empty, and a disk that has less room than is needed, in bytes."""
    problems = []
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append(f"--to must be a folder that is empty or not there yet, but {folder} is not. Name another.")
    nearest = disk.nearest(folder)
    free = shutil.disk_usage(nearest).free
    if free < needed:
        problems.append(
            f"--to must be on a disk with {size(needed)} free, but {nearest} has {size(free)}. Free some, or name"
            " a folder on another disk."
        )
    if problems:
        raise UsageError(problems)


def _bytes(base: ModelConf, dtype: str) -> int:
    return sum(parameter.numel() for parameter in pretrained.skeleton(base).parameters()) * BYTES[dtype]


def _text_rows(base: ModelConf, adapter: Path) -> list[Row]:
    tokenizer = vocabulary.tokenizer_of(base, adapter)
    return [
        {"input_ids": row.input_ids, "labels": row.labels}
        for text in TEXTS
        for row in tokens.tokenise(Example(text=text), tokenizer)
    ]


def _save_merged(
    base: ModelConf, adapter: Path, folder: Path, dtype: str, rows: Sequence[Row]
) -> tuple[Tensor, Tensor]:
    """Saves the merged model; returns the logits of the base and of the adapter before, in float32."""
    with blaming(f"The base, {base.path},"):
        model = merge.float32_base(base, pretrained.device())
        untrained, _ = completion_logits(model, rows)
    with blaming(f"The adapter in {adapter}"):
        adapted = merge.with_adapter(model, adapter)
        reference, _ = completion_logits(adapted, rows)
        merged = merge.merge(adapted)
    tokenizer = vocabulary.tokenizer_of(base, adapter)
    with pretrained.quiet(), blaming(f"The merged model, or {folder.parent}, where it is saved,"):
        merge.save(merged, tokenizer, folder, getattr(torch, dtype))
    return untrained, reference


def _verify(merged: MergedModel, tolerance: ToleranceConf) -> None:
    what = f"merged in {merged.dtype}"
    failures = merged.difference.violations(tolerance, what)
    failures += merged.difference.control_failures(merged.effect, what)
    if failures:
        listed = "; ".join(with_remedy(failures, merged.dtype, merged.difference, "--dtype "))
        raise LowrungError(f"The merged model must agree with the adapter, but does not, and was not kept: {listed}.")
