"""Models of real sizes, made on the device from a seed: what a step costs does not depend on what the weights are."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from lowrung.config.schema import ModelConf
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.models import pretrained

DTYPE = torch.bfloat16
HELD_OUT = 2
"""Rows that lowrung's trainer tries its ways to compute logits on."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model by its architecture and sizes, and what is measured: rows of a batch, and tokens of each row."""

    kind: str
    sizes: Mapping[str, Any]
    batches: Sequence[int] = (1, 4, 16)
    tokens: int = 512


_NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def _sizes(*sizes: int, words: int, tied: bool) -> dict[str, Any]:
    others = {"vocab_size": words, "tie_word_embeddings": tied, "max_position_embeddings": 4096}
    return {**dict(zip(_NAMES, sizes, strict=True)), **others}


SHAPES = {
    "0.5B": Shape("qwen2", _sizes(896, 4864, 24, 14, 2, words=151936, tied=True)),  # Qwen2.5-0.5B
    "1.5B": Shape("qwen2", _sizes(1536, 8960, 28, 12, 2, words=151936, tied=True)),  # Qwen2.5-1.5B
    "8B": Shape("llama", _sizes(4096, 14336, 32, 32, 8, words=128256, tied=False)),  # Llama 3.1 8B
    "tiny": Shape("llama", _sizes(64, 128, 2, 4, 2, words=512, tied=False), (1, 4), 64),
}


def config(shape: Shape) -> Any:
    """As transformers has it; only the tokenizer's end of text is no number of a real model's."""
    end = {"bos_token_id": None, "eos_token_id": tokenizer().eos_token_id, "pad_token_id": tokenizer().pad_token_id}
    return AutoConfig.for_model(shape.kind, **shape.sizes, **end)


def build(shape: Shape, device: torch.device) -> PreTrainedModel:
    """The model in bfloat16, made where it will be used, with weights from seed 0."""
    torch.manual_seed(0)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config(shape), dtype=DTYPE)
    model.eval()
    return model


def write(shape: Shape, folder: Path, device: torch.device) -> None:
    """Saves model and tokenizer, for what loads them from a folder."""
    with pretrained.quiet():
        build(shape, device).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def describe(shape: Shape, folder: Path) -> None:
    """Saves config and tokenizer alone, from which the plan counts sizes."""
    config(shape).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def tokenizer() -> PreTrainedTokenizerBase:
    """One token a byte; the model's vocabulary has more rows."""
    return pretrained.tokenizer_of(ModelConf("embedded:tiny"))


def rows(shape: Shape, count: int) -> Prepared:
    """So many rows to train on, of random tokens from seed 0, all of one length; their second halves have labels."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(3, shape.sizes["vocab_size"], (count + HELD_OUT, shape.tokens), generator=generator).tolist()
    half = shape.tokens // 2
    made = [{"input_ids": row, "labels": [-100] * half + row[half:]} for row in drawn]
    return Prepared(Dataset.from_list(made[HELD_OUT:]), Dataset.from_list(made[:HELD_OUT]), 0, 0, True)
