"""The runs that are predicted and measured, and the models that they train."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from lowrung.config import structured
from lowrung.config.schema import Config
from lowrung.store import layout

COMMON = (
    "track=none",
    "train.eval_steps=4",
    "train.max_steps=4",
    "train.eval_batch_size=8",
    "train.batch_size=4",
    "verify.prompts=4",
    "verify.new_tokens=8",
    "data.eval_size=8",
    "data.train_size=128",
)
"""Short runs: what is predicted of a step does not change with their number."""

SMOLLM = ("model=smollm2_135m",)
SMALL = ("model=tiny", "model.path=models/small")
WIDE = ("model=tiny", "model.path=models/wide")
GPT2 = ("model=tiny_gpt2", "model.path=models/gpt2", "lora=gpt2")
TINY = ("model=tiny", "data=number_words", "data.eval_size=32")

_LLAMA = {"model_type": "llama", "max_position_embeddings": 2048, "num_attention_heads": 8, "num_key_value_heads": 4}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "small": (
        "smollm2_135m",
        {
            **_LLAMA,
            **{"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 12},
            "tie_word_embeddings": True,
        },
    ),
    "wide": (
        "tiny",
        {
            **_LLAMA,
            **{"vocab_size": 512, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8},
            "tie_word_embeddings": False,
        },
    ),
    "gpt2": (
        "tiny_gpt2",
        {"model_type": "gpt2", "vocab_size": 512, "n_embd": 512, "n_layer": 6, "n_head": 8, "n_positions": 1024},
    ),
}
"""Models of shapes between those that come with lowrung: whose tokenizer each has, and its config."""

RUNS: dict[str, Sequence[str]] = {
    "135M r=8, 4 rows": SMOLLM,
    "135M r=64, 4 rows": (*SMOLLM, "lora.r=64"),
    "135M r=8, 8 rows": (*SMOLLM, "train.batch_size=8"),
    "135M r=8, 8 rows, checkpointing": (*SMOLLM, "train.batch_size=8", "train.gradient_checkpointing=true"),
    "135M r=8, 1 row of 512, packed": (*SMOLLM, "train.packing=true", "data.max_length=512", "train.batch_size=1"),
    "135M r=8, 2 rows twice": (*SMOLLM, "train.batch_size=2", "train.gradient_accumulation_steps=2"),
    "135M DoRA r=8, 4 rows": (*SMOLLM, "lora=dora"),
    "135M r=8, dropout, 4 rows": (*SMOLLM, "lora.dropout=0.1"),
    "135M attention r=16, 4 rows": (*SMOLLM, "lora.target_modules=attention", "lora.r=16"),
    "135M nf4 r=8, 4 rows": (*SMOLLM, "model.quantization=nf4"),
    "135M int8 r=8, 4 rows": (*SMOLLM, "model.quantization=int8"),
    "135M full, 4 rows": (*SMOLLM, "lora=full"),
    "135M r=8, 8 rows, no gate": (*SMOLLM, "train.batch_size=8", "verify=none", "train.max_steps=8"),
    "20M r=8, 16 rows": (*SMALL, "train.batch_size=16", "train.max_steps=8"),
    "20M full, 8 rows": (*SMALL, "lora=full", "train.batch_size=8", "train.max_steps=8"),
    "20M r=8, 2 rows of 1024, packed": (*SMALL, "train.packing=true", "data.max_length=1024", "train.batch_size=2"),
    "20M r=8, 2 rows of 1024, packed, checkpointing": (
        *SMALL,
        *("train.packing=true", "data.max_length=1024", "train.batch_size=2", "train.gradient_checkpointing=true"),
    ),
    "20M r=8 and its head, 8 rows": (*SMALL, "lora.modules_to_save=[lm_head]", "train.batch_size=8"),
    "25M r=32, 8 rows": (*WIDE, "lora.r=32", "train.batch_size=8"),
    "25M DoRA r=8, 4 rows": (*WIDE, "lora=dora"),
    "25M nf4 r=8, 8 rows": (*WIDE, "model.quantization=nf4", "train.batch_size=8"),
    "GPT-2 of 20M r=8, 8 rows": (*GPT2, "train.batch_size=8", "train.max_steps=8"),
    "tiny r=4, 8 rows, 50 steps": (
        *TINY,
        "lora.r=4",
        "train.batch_size=8",
        "train.max_steps=50",
        "train.eval_steps=10",
    ),
    "tiny full, 16 rows, 50 steps": (*TINY, "lora=full", "train.batch_size=16", "train.max_steps=50"),
    "135M r=8, the defaults": (
        *SMOLLM,
        *("train.batch_size=8", "train.max_steps=20", "train.eval_steps=10", "train.eval_batch_size=16"),
        *("verify.prompts=8", "verify.new_tokens=12", "data.eval_size=32", "data.train_size=512"),
    ),
}
"""Each run's name, and its overrides."""


def configs() -> Iterator[tuple[str, Config]]:
    """Each run's name and config."""
    structured.register()
    with initialize_config_dir(config_dir=str(layout.ROOT / "conf"), version_base="1.3"):
        for name, overrides in RUNS.items():
            yield name, structured.resolve(compose("config", [*COMMON, *overrides, "store=store"]))


def make_models() -> None:
    """Writes the models of `SHAPES`, with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from lowrung.finetune.models import pretrained

    for name, (tokenizer, shape) in SHAPES.items():
        folder = Path("models", name)
        if not (folder / "config.json").exists():
            torch.manual_seed(0)
            tokens: Any = AutoTokenizer.from_pretrained(pretrained.locate(f"embedded:{tokenizer}"))
            ends = {"pad_token_id": tokens.pad_token_id, "eos_token_id": tokens.eos_token_id, "bos_token_id": None}
            AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape, **ends)).save_pretrained(folder)
            tokens.save_pretrained(folder)
