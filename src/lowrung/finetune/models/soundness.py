"""Why a base model cannot be used, found before anything runs; no weights are loaded."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError, install, said
from lowrung.finetune.models import ends, hub, pretrained, weights

CONVERT = (
    "A pickle can run any code when it is loaded. If you trust it, convert it once, to another folder:"
    " `AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)`, and the same with AutoTokenizer."
)
FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def problems(base: ModelConf, *, is_whole: bool = True) -> list[str]:
    """Why a base model cannot be loaded with its settings; no weights are loaded.

    A hub model is fetched for this.

    Args:
        base: the model.
        is_whole: whether weights and tokenizer must be there; what is there is held to the rules in any case.
    """
    found = [*_quantization_problems(base), *_flash_problems(base)]
    try:
        folder = pretrained.folder_of(base)
    except UsageError as error:
        return [*found, *error.problems]
    if base.revision is not None and hub.commit(folder) is None:
        found.append(
            f"model.revision={base.revision} needs a hub model, but model.path={base.path} is not one. Leave"
            " model.revision out."
        )
    return [*found, *_folder_problems(base, folder, is_whole=is_whole)]


def _quantization_problems(base: ModelConf) -> Iterator[str]:
    if base.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        yield (
            f"model.quantization={base.quantization} needs the package bitsandbytes, which is not installed."
            f" {install('quantization')}"
        )


def _flash_problems(base: ModelConf) -> Iterator[str]:
    attention = base.attn_implementation or ""
    package = FLASH_PACKAGES.get(attention)
    if package is None:
        return
    lacking = [f"the package {package}"] if importlib.util.find_spec(package) is None else []
    lacking += [] if torch.cuda.is_available() else ["an NVIDIA GPU"]
    if lacking:
        yield (
            f"model.attn_implementation={attention} needs {' and '.join(lacking)}, which this machine does not have."
            " Leave it out, or use sdpa."
        )


def _folder_problems(base: ModelConf, folder: Path, *, is_whole: bool) -> Iterator[str]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        yield f"model.path must have a config.json that is JSON, but {folder / 'config.json'} is not: {error}."
        return
    if not isinstance(config, dict):
        yield f"model.path must have a config.json that is a mapping, but {folder / 'config.json'} is not."
        return
    no_weights = list(_weight_problems(config, folder, is_whole=is_whole))
    yield from no_weights
    if code_problem := _remote_code_problem(base, config, folder):
        yield code_problem
        return
    try:
        model = _skeleton(base, config, folder)
    except UsageError as error:  # tokenizer and weights go with the config: one mistake, one message
        yield from error.problems
        return
    if not no_weights and (is_whole or pretrained.has_weights(folder)):
        yield from weights.problems(model, folder)
    if is_whole or pretrained.has_tokenizer(folder):
        yield from _tokenizer_problems(base, folder)
    yield from _generation_problems(folder)


def _weight_problems(config: dict[str, Any], folder: Path, *, is_whole: bool) -> Iterator[str]:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
    if not pretrained.has_weights(folder) and (is_whole or pickles):
        rule = f"model.path must have its weights as safetensors, but {folder} has"
        yield f"{rule} only pickles ({', '.join(pickles)}). {CONVERT}" if pickles else f"{rule} none."
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        yield (
            f"model.path must have weights that are not quantised, but those in {folder} are ({method}). Take the"
            " original model; model.quantization quantises it while loading."
        )


def _remote_code_problem(base: ModelConf, config: dict[str, Any], folder: Path) -> str | None:
    brings_code = "AutoModelForCausalLM" in (config.get("auto_map") or {})
    if base.trust_remote_code or not brings_code or config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    return (
        f"model.path={base.path} brings Python code of its own, which runs only with model.trust_remote_code=true"
        " (after training: --trust-remote-code)."
        f" Read the code first: it can do whatever you can. Its config.json is in {folder}."
    )


def _skeleton(base: ModelConf, config: dict[str, Any], folder: Path) -> PreTrainedModel:
    """The model without weights.

    Raises:
        UsageError: when it is no causal language model, or cannot be built.
    """
    named = config.get("architectures") or []
    if named and not base.trust_remote_code and not {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}.intersection(named):
        raise UsageError(
            f"model.path must be a causal language model, which continues text, but config.json in {folder} names"
            f" {', '.join(named)}."
        )
    attention = None if list(_flash_problems(base)) else base.attn_implementation  # one mistake, one message
    try:
        return pretrained.plain_skeleton(folder, trust_remote_code=base.trust_remote_code, attention=attention)
    except Exception as error:  # whatever a foreign config, or foreign code, makes transformers raise
        raise UsageError(
            f"model.path={base.path} cannot be built from config.json in {folder}: {said(error)}"
        ) from None


def _tokenizer_problems(base: ModelConf, folder: Path) -> Iterator[str]:
    try:
        tokenizer = pretrained.load_tokenizer(folder, trust_remote_code=base.trust_remote_code)
    except Exception as error:  # as above
        yield (
            f"model.path must have a tokenizer, but none can be loaded from {folder}: {said(error)}"
            " Save it beside the weights with its save_pretrained."
        )
        return
    vocabulary = tokenizer.get_vocab() if base.added_tokens else {}
    if known := [token for token in base.added_tokens if token in vocabulary]:
        yield (
            f"model.added_tokens must be new to the model, but {base.path} has {', '.join(known)} already. Leave them"
            " out; lora.trainable_token_indices trains tokens that a model has"
            f" ({', '.join(str(vocabulary[token]) for token in known)})."
        )


def _generation_problems(folder: Path) -> Iterator[str]:
    try:
        ends.listed(folder)
    except Exception as error:  # values that transformers refuses when it loads the model, of whatever kind
        yield (
            f"model.path must have a {ends.FILE} that transformers can load, or none, but that in {folder} cannot be"
            f" loaded: {said(error)} Correct it, or delete it."
        )
