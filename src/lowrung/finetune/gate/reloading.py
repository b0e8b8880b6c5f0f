"""Is a saved adapter the trained one? It is loaded again, on the base as that was loaded to be trained."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from lowrung.config.schema import ModelConf
from lowrung.finetune.gate import metadata
from lowrung.finetune.gate.adapted import Adapted
from lowrung.finetune.gate.case import Case
from lowrung.finetune.lora import merge
from lowrung.finetune.lora.adapter import prepare_quantized
from lowrung.finetune.models import added_tokens, pretrained


def reload(case: Case, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> Adapted:
    """Loads the saved adapter on the base as that was loaded to be trained, and lets it read the rows."""
    return Adapted.of(_reloaded(case, tokenizer, device), case.rows)


def is_on_float32(case: Case) -> bool:
    """Whether the reloaded adapter lies on the float32 base that merged models are compared with, on one device."""
    base = case.base
    return case.evidence.dtype == torch.float32 and base.quantization == "none" and base.device_map is None


def _reloaded(case: Case, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> PeftModel:
    """Loads an adapter through AutoPeft, as people do, where that gives the base as it was loaded to be trained.

    AutoPeft quantises nothing and knows one device, and it enlarges a model whose tokenizer has more tokens than the
    embedding has rows (Gemma 3). An adapter that names another base has failed already.
    """
    base = case.base
    needs_more = base.quantization != "none" or base.device_map is not None
    if needs_more or metadata.origin_failures(case.adapter_folder, base) or _is_short_of_rows(base, tokenizer):
        return _reloaded_as_trained(base, case.adapter_folder, device)
    with pretrained.quiet(), _without_warnings_of("mean_resizing"):
        model: Any = AutoPeftModelForCausalLM.from_pretrained(
            str(case.adapter_folder),
            dtype=case.evidence.dtype,
            attn_implementation=base.attn_implementation,
            trust_remote_code=base.trust_remote_code,
        )
    return model.to(device).eval()  # type: ignore[no-any-return]


def _reloaded_as_trained(base: ModelConf, adapter_folder: Path, device: torch.device) -> PeftModel:
    """Loads base and adapter in the very precisions of training: an int8 base makes much of little differences.

    SFTTrainer holds the adapter of a quantised base in bfloat16, and PEFT loads it in float32: the same weights, but
    with SmolLM2-135M in int8, which rounds activations, a mean KL of 0.026 between them.
    """
    model = pretrained.load_base(base, device)
    if base.quantization != "none":
        model = prepare_quantized(model, gradient_checkpointing=False)
    adapted = merge.with_adapter(model, adapter_folder)
    saved = load_file(adapter_folder / "adapter_model.safetensors")
    for name, parameter in adapted.named_parameters():
        if (stored := name.replace(".default.", ".").removesuffix(".default")) in saved:
            parameter.data = parameter.data.to(saved[stored].dtype)
    return adapted


def _is_short_of_rows(base: ModelConf, tokenizer: Any) -> bool:
    """Whether the tokenizer has more tokens than the embedding has rows."""
    return len(tokenizer) > added_tokens.row_count(pretrained.skeleton(base))


@contextlib.contextmanager
def _without_warnings_of(word: str) -> Iterator[None]:
    """Silences what transformers logs with a word in it: of new rows, which the adapter's own then replace."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return word not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
