"""Merging: the adapter's update added to the base's weights, saved as an ordinary model with its tokenizer."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.adapters.difference import Difference
from lowrung.finetune import model as models
from lowrung.finetune import quantization
from lowrung.finetune.model import Base


def float32_base(base: Base, place: torch.device) -> PreTrainedModel:
    """The base in float32, to be merged into; of a quantised one, what its weights stand for."""
    if base.quantization == "none":
        return models.load_base(base, place, dtype=torch.float32)
    return quantization.dequantized(models.load_base(base, place), torch.float32)


def with_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """A base with a saved adapter on it, in evaluation mode.

    Without what PEFT says of GPT-2's layers, which are linear ones where they are quantised to be trained, and lie the
    other way round here: it sees to that by itself.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        return PeftModel.from_pretrained(base, str(folder)).eval()


def merge(model: PeftModel) -> PreTrainedModel:
    """Adds the adapter's update to the base's weights and takes the adapter off; the given model is used up.

    A float32 model loses nothing but rounding. Cast it afterwards: merging in a lower precision rounds twice.
    """
    merged: PreTrainedModel = model.merge_and_unload()
    return merged


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype) -> None:
    """Saves a model in one precision throughout, safetensors, with its tokenizer."""
    model.to(dtype).save_pretrained(folder)  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)


def with_remedy(failures: Sequence[str], dtype: str, difference: Difference, setting: str) -> list[str]:
    """What a merge broke that is right in float32, with what to do about rounding or range behind the last rule.

    Args:
        failures: the rules that were broken, in words.
        dtype: the precision that was merged to.
        difference: how far the merged model is from the adapter.
        setting: what a user writes before a precision: ``verify.merge_dtype=``.
    """
    if not failures or dtype == "float32":
        return list(failures)
    if not difference.is_finite:
        why = f"{dtype} ends at {torch.finfo(getattr(torch, dtype)).max:g}, and this model goes beyond"
        remedy = f"take {setting}float32 or {setting}bfloat16"
    else:
        why = f"{dtype}'s grid is too coarse for this update"
        finer = f"{setting}float16 (a finer grid) or {setting}float32" if dtype == "bfloat16" else f"{setting}float32"
        remedy = f"ship the adapter unmerged, or take {finer}"
    return [*failures[:-1], f"{failures[-1]}; {why}: {remedy}"]
