"""Merged models compared with their adapter: the distance between them, and whether the files were saved right."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.finetune.gate import branches, generated, metadata, rounding
from lowrung.finetune.gate.adapted import Adapted
from lowrung.finetune.gate.case import Case
from lowrung.finetune.gate.difference import compare, completion_logits, with_remedy
from lowrung.finetune.gate.untrained import Untrained
from lowrung.finetune.lora import merge
from lowrung.finetune.models import attention, pretrained


@dataclasses.dataclass(frozen=True)
class Reference:
    """The adapter on a float32 base, which merged models are compared with, once its memory is freed.

    Attributes:
        logits: over the rows' completions.
        labels: their tokens.
        effect: mean KL between the base and the adapter on it.
        generated: the tokens that it generates greedily from each prompt.
        samples: the first of them as text; see `lowrung.finetune.gate.generated.samples`.
        was_tied: whether the base's head is its embedding.
        branches_with: the attention with which the base reads branches rightly; see `Untrained`.
        seconds: the time of each forward pass, per token.
    """

    logits: Tensor
    labels: Tensor
    effect: float
    generated: Sequence[Sequence[int]]
    samples: Sequence[Mapping[str, str]]
    was_tied: bool
    branches_with: str
    seconds: Sequence[float]

    @classmethod
    def of(cls, case: Case, adapted: Adapted, base: Untrained, tokenizer: PreTrainedTokenizerBase) -> "Reference":
        """Takes it from the adapter on a float32 base."""
        logits, labels = adapted.logits, adapted.labels
        effect = compare(logits, base.logits, labels).mean_kl
        said = generated.greedy(case, adapted.model, tokenizer, range(len(case.rows)))
        samples = generated.samples(case, tokenizer, said)
        return cls(logits, labels, effect, said, samples, base.was_tied, base.branches_with, adapted.seconds)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One merged model compared with the reference.

    Attributes:
        is_right: whether it is as near to the reference as the tolerances ask.
        failures: the rules that were broken, those of its files among them.
        metrics: by MLflow name.
        speedup: the adapter's time of a forward pass over the merged model's, per token, one measured after the other.
    """

    is_right: bool
    failures: list[str]
    metrics: Mapping[str, float]
    speedup: float


def save(case: Case, adapter: PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Merges in float32, and saves the merged model in each of the case's precisions.

    The given model is used up: the update is added to its own weights, and these are cast one after the other.
    """
    merged = merge.merge(adapter)
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
    """Loads the merged model that was saved in this precision, to compute as `rounding.computed_in` says."""
    computed, trusted = getattr(torch, rounding.computed_in(dtype, device)), case.base.trust_remote_code
    return pretrained.load_model(case.scratch / dtype, computed, device, trust_remote_code=trusted)


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
    read, seconds = _read(case, dtype, model, expected)
    difference = compare(expected.logits, read.logits, expected.labels)
    broken = difference.violations(case.tolerances[dtype], what)
    broken += difference.control_failures(expected.effect, what)
    failures = with_remedy(broken, dtype, difference, "verify.merge_dtype=") if is_right_in_float32 else broken
    prefix = "merge" if dtype == "float32" else f"merge/{dtype}"
    metrics = {f"{prefix}/{name}": value for name, value in dataclasses.asdict(difference).items()}
    said = generated.greedy_as(case, model, tokenizer, expected.generated, read.after)
    metrics[f"{prefix}/greedy_agreement"] = generated.agreement(expected.generated, said)
    saved = _saved_failures(case, dtype, model, tokenizer, was_tied=expected.was_tied)
    return Comparison(not broken, [*failures, *saved], metrics, _speedup(expected.seconds, seconds))


def _read(case: Case, dtype: str, model: PreTrainedModel, expected: Reference) -> tuple[branches.Read, list[float]]:
    """What a merged model says of the rows and of what the adapter generated; and each pass's time per token.

    The rows' logits are not finite where they could not be in its precision.
    """
    seconds: list[float] = []
    others = expected.generated
    is_known = attention.name(model) == expected.branches_with
    way = branches.together if is_known and branches.fit(model, case.rows, others) else branches.apart
    if str(model.dtype) == f"torch.{dtype}":
        return way(model, case.rows, others, seconds), seconds
    with rounding.range_watched(model, dtype) as beyond:
        read = way(model, case.rows, others, seconds)
    if beyond:
        read = dataclasses.replace(read, logits=torch.full_like(read.logits, torch.inf))
    return read, seconds


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


def _speedup(adapter: Sequence[float], merged: Sequence[float]) -> float:
    """By the median passes, of which the first also brings a model's weights from the disk."""
    return statistics.median(adapter) / statistics.median(merged)
