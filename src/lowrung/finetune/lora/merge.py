"""Merging: the adapter's update added to the base's weights, saved as an ordinary model with its tokenizer."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained, quantization


def float32_base(base: ModelConf, device: torch.device) -> PreTrainedModel:
    """The base in float32, to be merged into; a quantised one is dequantised."""
    if base.quantization == "none":
        return pretrained.load_base(base, device, dtype=torch.float32)
    return quantization.dequantized(pretrained.load_base(base, device), torch.float32)


def with_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """A base with a saved adapter on it, in evaluation mode.

    PEFT's warning about ``fan_in_fan_out`` is silenced: the layers of GPT-2 are linear ones when they are quantised for
    training, and Conv1D ones here. PEFT sets the option right by itself.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        return PeftModel.from_pretrained(base, str(folder)).eval()


def merge(model: PeftModel) -> PreTrainedModel:
    """Adds the adapter's update to the base's weights and takes the adapter off; the given model is used up.

    A float32 model loses nothing but rounding. Cast it afterwards: merging in a lower precision rounds twice.
    """
    merged: PreTrainedModel = model.merge_and_unload()
    head: Any = merged.get_output_embeddings()
    if head is not None and head.weight is not merged.get_input_embeddings().weight:
        # PEFT says so of the whole model alone; of one with several parts, transformers reads the language model's.
        merged.config.get_text_config().tie_word_embeddings = False
    return merged


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype) -> None:
    """Saves a model in one precision throughout, safetensors, with its tokenizer."""
    model.to(dtype).save_pretrained(folder)  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)
