"""What the logits of a saved adapter or model do not show: its base, tokenizer, ends of answers, precision, tying."""

from pathlib import Path
from typing import Any

from peft import PeftConfig
from safetensors import safe_open
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained
from lowrung.finetune.models.ends import Ends
from lowrung.finetune.models.head import Row

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What safetensors calls precisions; indices and masks have others, which no rule is about."""


def origin_failures(adapter_folder: Path, base: ModelConf) -> list[str]:
    """Does an adapter name the base that it was trained on? A person who loads it gets the base that it names."""
    config = PeftConfig.from_pretrained(str(adapter_folder))
    named, trained_on = (config.base_model_name_or_path, config.revision), pretrained.origin_of(base)
    if named == trained_on:
        return []
    return [f"saved adapter: it must name its base as {_origin(*trained_on)}, but names {_origin(*named)}"]


def _origin(path: str | None, revision: str | None) -> str:
    return f"{path}@{revision}" if revision else str(path)


def tokenizer_failures(
    tokenizer: PreTrainedTokenizerBase, folder: Path, row: Row, what: str, *, trust_remote_code: bool
) -> list[str]:
    """Is the tokenizer beside a saved model or adapter the one that it was trained with?"""
    text = tokenizer.decode(row["input_ids"])
    try:
        saved = pretrained.load_tokenizer(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever transformers raises where it finds nothing that it can load
        return [f"{what}: its tokenizer must be saved beside it, but cannot be loaded ({type(error).__name__})"]
    added: Any = tokenizer.get_added_vocab()
    if lost := [token for token, number in added.items() if saved.convert_tokens_to_ids(token) != number]:
        return [
            f"{what}: the tokenizer saved beside it must have the tokens that were added, but lacks {', '.join(lost)}"
        ]
    if saved(text)["input_ids"] == tokenizer(text)["input_ids"]:
        return []
    return [f"{what}: the tokenizer saved beside it splits text differently"]


def ends_failures(folder: Path, ends: Ends, tokenizer: PreTrainedTokenizerBase, what: str) -> list[str]:
    """Does the generation config beside it say where its answers end? Whoever serves it stops there, or goes on."""
    try:
        named = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        named = None
    found = {*named} if isinstance(named, list) else {named} - {None}
    if found == {*ends.tokens}:
        return []
    wanted, instead = (
        ", ".join(str(tokenizer.decode([id])) for id in sorted(ids)) or "nothing" for ids in ({*ends.tokens}, found)
    )
    return [f"{what}: generation_config.json must end answers at {wanted}, but ends them at {instead}"]


def vocabulary_failures(folder: Path, rows: int, what: str, *, trust_remote_code: bool) -> list[str]:
    """Does config.json give a saved model as many rows as the model that was trained? The weights must go with it."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    named = config.get_text_config().vocab_size
    return [] if named == rows else [f"{what}: it must have {rows} rows, one for each token, but has {named}"]


def precision_failures(folder: Path, dtype: str) -> list[str]:
    """Are all weights of a merged model stored in the precision that was promised?"""
    others = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            others |= {DTYPES.get(weights.get_slice(name).get_dtype(), dtype) for name in weights.keys()}  # noqa: SIM118
    if others <= {dtype}:
        return []
    listed = ", ".join(sorted(others - {dtype}))
    return [f"merged in {dtype}: all weights must be stored in it, but some are in {listed}"]


def tying_failures(merged: PreTrainedModel, adapter_folder: Path, *, was_tied: bool, what: str) -> list[str]:
    """Are head and embedding tied as in the base, and does config.json agree?

    transformers unties them when their weights differ. A library that trusts config.json would drop a trained head.
    """
    if is_tied(merged):
        return []
    if merged.config.get_text_config().tie_word_embeddings:
        return [f"{what}: config.json must say that the head is not tied to the embedding, but says that it is"]
    config: Any = PeftConfig.from_pretrained(str(adapter_folder))
    if was_tied and not config.modules_to_save:
        return [f"{what}: the head must be tied to the embedding, as in the base, but is not"]
    return []


def is_tied(model: Any) -> bool:
    """Whether the head is the embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight
