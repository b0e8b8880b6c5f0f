"""Merging: the adapter's update added to the base's weights, saved as an ordinary model with its tokenizer."""

import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained, quantization


def float32_base(base: ModelConf, place: torch.device) -> PreTrainedModel:
    """The base in float32, to be merged into; of a quantised one, what its weights stand for."""
    if base.quantization == "none":
        return pretrained.load_base(base, place, dtype=torch.float32)
    return quantization.dequantized(pretrained.load_base(base, place), torch.float32)


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
