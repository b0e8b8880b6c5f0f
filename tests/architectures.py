"""Small random models of the architectures that people fine-tune: 2 layers, width 64, a byte-level tokenizer."""

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    Gemma4Config,
    GemmaConfig,
    GitConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PhimoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained

TOKENS: dict[str, Any] = {"vocab_size": 264, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": 257}
"""Those of `embedded:tiny`, a token a byte and three more; Qwen2's tokenizer class adds a fourth."""

SIZES: dict[str, Any] = {
    **TOKENS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,  # wide enough that an untrained model's outputs differ between tokens
}

GPT2_SIZES: dict[str, Any] = {
    **TOKENS,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 1024,
    "initializer_range": 0.1,
}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "tied llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "gpt2": GPT2Config(**GPT2_SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "gemma": GemmaConfig(**SIZES),
    "gemma2": Gemma2Config(**SIZES, sliding_window=16, attn_logit_softcapping=5.0, final_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=16, layer_types=["sliding_attention", "full_attention"]),
    "mistral": MistralConfig(**SIZES, sliding_window=16),
    "phi3": Phi3Config(**SIZES),
}
"""By name. Windows are shorter than the rows of tests, and caps low enough to bite; all else is as the architecture has
it: Gemma and GPT-2 tie their heads, GPT-2 and Qwen2 have biases."""


@functools.cache
def base(name: str) -> ModelConf:
    """The model of this name in float32, built once in a folder that lasts as long as the tests."""
    folder = Path(_folder().name) / name.replace(" ", "_")
    model = random_model(CONFIGS[name])
    with pretrained.quiet():
        model.save_pretrained(folder)
    pretrained.load_tokenizer(pretrained.folder_of(ModelConf("embedded:tiny"))).save_pretrained(folder)
    return ModelConf(str(folder), dtype="float32")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lowrung-architectures-")


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of this config in evaluation mode, with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    model.eval()
    return model


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of this config without weights: names and shapes."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


MIXTURES: dict[str, PreTrainedConfig] = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "qwen3 moe": Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1
    ),
    "gpt oss": GptOssConfig(
        **SIZES, num_local_experts=4, num_experts_per_tok=2, layer_types=["sliding_attention", "full_attention"]
    ),
    # A router that is a linear layer and returns two tensors.
    "phi moe": PhimoeConfig(
        **{name: size for name, size in SIZES.items() if name != "head_dim"}, num_local_experts=4, num_experts_per_tok=2
    ),
    # Its dense layer has names that PEFT takes for those of experts.
    "partly dense": Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, mlp_only_layers=[0]
    ),
}
"""Mixtures of experts, by name; each layer's experts are stacked in two parameters."""

_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}

MULTIMODAL: dict[str, PreTrainedConfig] = {
    "gemma3": Gemma3Config(
        text_config={**SIZES, "sliding_window": 16},
        vision_config={**_TOWER, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=261,
    ),
    # The layers of its tower are wrappers around linear ones, and have the names of the language model's layers.
    "gemma4": Gemma4Config(
        text_config={
            **SIZES,
            "global_head_dim": 16,
            "vocab_size_per_layer_input": 264,
            "hidden_size_per_layer_input": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={**_TOWER, "num_key_value_heads": 2, "head_dim": 16},
        audio_config=None,
    ),
    "git": GitConfig(
        vision_config=_TOWER,
        **{name: size for name, size in SIZES.items() if name not in ("head_dim", "num_key_value_heads")},
    ),
}
"""Models that take images too, by name."""


def saved(config: PreTrainedConfig, folder: Path) -> ModelConf:
    """A random model of this config in a folder, with the tokenizer of `embedded:tiny`."""
    with pretrained.quiet():
        random_model(config).save_pretrained(folder)
    pretrained.load_tokenizer(pretrained.folder_of(ModelConf("embedded:tiny"))).save_pretrained(folder)
    return ModelConf(str(folder))
