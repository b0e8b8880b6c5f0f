"""Merged models compared with their adapter: the distance between them, and whether the files were saved right."""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.finetune.gate import metadata
from lowrung.finetune.gate.case import Case
from lowrung.finetune.gate.difference import compare, completion_logits, padded, with_remedy
from lowrung.finetune.lora import merge
from lowrung.finetune.models import generate, pretrained
from lowrung.finetune.models.head import Row

TIMED_PASSES = 3


@dataclasses.dataclass(frozen=True)
class Reference:
    """The adapter on a fresh float32 base, which merged models are compared with.

    Attributes:
        logits: over the rows' completions.
        labels: their tokens.
        effect: mean KL between the base and the adapter on it.
        generated: the tokens that it generates greedily from each prompt.
        was_tied: whether the base's head is its embedding.
    """

    logits: Tensor
    labels: Tensor
    effect: float
    generated: Sequence[Sequence[int]]
    was_tied: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One merged model compared with the reference.

    Attributes:
        is_right: whether it is as near to the reference as the tolerances ask.
        failures: the rules that were broken, those of its files among them.
        metrics: by MLflow name.
    """

    is_right: bool
    failures: list[str]
    metrics: Mapping[str, float]


def reference(case: Case, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> tuple[PeftModel, Reference]:
    """Puts the adapter on a fresh float32 base, and takes what merged models are compared with."""
    base = merge.float32_base(case.base, device)
    was_tied = metadata.is_tied(base)
    # Before the adapter is on it: trained biases and heads change the base itself.
    untrained, labels = completion_logits(base, case.rows)
    adapter = merge.with_adapter(base, case.adapter_folder)
    logits, _ = completion_logits(adapter, case.rows)
    effect = compare(logits, untrained, labels).mean_kl
    return adapter, Reference(logits, labels, effect, _greedy(case, adapter, tokenizer), was_tied)


def save(case: Case, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
    """Merges in float32, and saves the merged model in each of the case's precisions."""
    merged = merge.merge(merge.with_adapter(merge.float32_base(case.base, device), case.adapter_folder))
    with pretrained.quiet():
        for dtype in case.dtypes:
            merge.save(merged, tokenizer, case.scratch / dtype, getattr(torch, dtype))
            case.evidence.ends.write(case.scratch / dtype)


def vocabulary_failures(case: Case, rows: int) -> list[str]:
    """Do the saved models have as many rows as the adapter's logits? Others cannot be compared."""
    found: list[str] = []
    for dtype in case.dtypes:
        found += metadata.vocabulary_failures(
            case.scratch / dtype, rows, f"merged in {dtype}", trust_remote_code=case.base.trust_remote_code
        )
    return found


def load(case: Case, dtype: str, device: torch.device) -> PreTrainedModel:
    """Loads the merged model that was saved in this precision."""
    trusted = case.base.trust_remote_code
    return pretrained.load_model(case.scratch / dtype, getattr(torch, dtype), device, trust_remote_code=trusted)


def comparison(
    case: Case,
    dtype: str,
    model: PreTrainedModel,
    expected: Reference,
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_right_in_float32: bool,
) -> Comparison:
    """Compares a merged model with the adapter, and checks what was saved with it.

    Args:
        case: the adapter's.
        dtype: the precision that it was saved in.
        model: the merged model as reloaded.
        expected: what the adapter gives.
        tokenizer: the base's.
        is_right_in_float32: whether float32 kept to its tolerance, so that what another precision breaks is its own.
    """
    what = f"merged in {dtype}"
    difference = compare(expected.logits, completion_logits(model, case.rows)[0], expected.labels)
    broken = difference.violations(case.tolerances[dtype], what)
    broken += difference.control_failures(expected.effect, what)
    failures = with_remedy(broken, dtype, difference, "verify.merge_dtype=") if is_right_in_float32 else broken
    prefix = "merge" if dtype == "float32" else f"merge/{dtype}"
    metrics = {f"{prefix}/{name}": value for name, value in dataclasses.asdict(difference).items()}
    generated = _greedy(case, model, tokenizer)
    metrics[f"{prefix}/greedy_agreement"] = _agreement(expected.generated, generated)
    saved = _saved_failures(case, dtype, model, tokenizer, was_tied=expected.was_tied)
    return Comparison(not broken, [*failures, *saved], metrics)


def _saved_failures(
    case: Case, dtype: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, was_tied: bool
) -> list[str]:
    folder, what, trusted = case.scratch / dtype, f"merged in {dtype}", case.base.trust_remote_code
    return [
        *metadata.tokenizer_failures(tokenizer, folder, case.rows[0], what, trust_remote_code=trusted),
        *metadata.precision_failures(folder, dtype),
        *metadata.ends_failures(folder, case.evidence.ends, tokenizer, what),
        *metadata.tying_failures(model, case.adapter_folder, was_tied=was_tied, what=what),
    ]


def requantized(case: Case, expected: Reference, device: torch.device) -> dict[str, float]:
    """The merged model's distance from the adapter when it is quantised as the base was; it is recorded, not judged.

    Merging into the quantised base does the same: dequantise, add, round to the same kind of grid.
    """
    merged = dataclasses.replace(case.base, path=str(case.scratch / "float32"), revision=None, dtype="float32")
    logits, _ = completion_logits(pretrained.load_base(merged, device), case.rows)
    difference = dataclasses.asdict(compare(expected.logits, logits, expected.labels))
    return {f"merge/requantized/{name}": value for name, value in difference.items()}


def _greedy(case: Case, model: Any, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    prompts = [generate.prompt_tokens(row) for row in case.rows]
    return generate.greedy(model, tokenizer, prompts, ends=case.evidence.ends, new_tokens=case.new_tokens)


def _agreement(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """The share of generated tokens that are the same up to the first difference of each pair."""
    same, total = 0, 0
    for left, right in zip(one, other, strict=True):
        total += max(len(left), len(right))
        same += next(
            (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
        )
    return same / total if total else 1.0


def speedup(adapter: Any, merged: Any, rows: Sequence[Row]) -> float:
    """Seconds per forward pass of the adapter over those of the merged model: medians of interleaved passes."""

    def seconds(model: Any) -> float:
        batch = {name: tensor for name, tensor in padded(rows, model).items() if name != "labels"}
        started = time.perf_counter()
        with torch.no_grad():
            model(**batch).logits.sum().item()  # .item() waits for the GPU
        return time.perf_counter() - started

    passes = [(seconds(adapter), seconds(merged)) for _ in range(TIMED_PASSES)]
    return statistics.median(p[0] for p in passes) / statistics.median(p[1] for p in passes)
