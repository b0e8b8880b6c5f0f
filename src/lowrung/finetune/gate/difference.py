"""The difference between two models, over the completion tokens of the same rows."""

import dataclasses
import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional

from lowrung.config.schema import ToleranceConf
from lowrung.finetune.models.head import Batch, Row

TOKENS = 256
"""The most tokens of a forward pass over several rows: with 49,152 words, their logits are 50 MB in float32. On a CPU
SmolLM2-135M takes as long for 3 or 4 rows of 65 tokens at a time as for 8, which are padded more."""

COMPARED = 2**20
"""Logits that are compared at a time, in float64: 8 MB, of which a comparison holds six copies."""


ROUNDED = 1e-3
"""Two mean KL that differ relatively by less may be of one model, whose rows were read in other batches. Where a merge
leaves the adapter out, the merged model is the base, and both are the same up to rounding (3e-10 with `tiny`)."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference between two models, over the same tokens.

    Attributes:
        max_abs_logit_diff: largest difference of any logit.
        mean_kl: mean over tokens of KL(reference ‖ other), in nats.
        top1_agreement: share of tokens with the same most probable next token.
        eval_loss_delta: the other's mean negative log-likelihood less the reference's, in nats.
    """

    max_abs_logit_diff: float
    mean_kl: float
    top1_agreement: float
    eval_loss_delta: float

    @property
    def is_finite(self) -> bool:
        """Whether all logits were finite; if not, the other values mean nothing."""
        return math.isfinite(self.max_abs_logit_diff)

    def violations(self, tolerance: ToleranceConf, what: str) -> list[str]:
        """The rules that are broken, in words; ``what`` names the comparison."""
        if not self.is_finite:
            return [f"{what}: every logit must be finite, but some are not"]
        rules = (
            ("max |Δlogit|", self.max_abs_logit_diff, "<=", tolerance.max_abs_logit_diff),
            ("mean KL", self.mean_kl, "<=", tolerance.mean_kl),
            ("top-1 agreement", self.top1_agreement, ">=", tolerance.top1_agreement),
            ("|Δ eval loss|", abs(self.eval_loss_delta), "<=", tolerance.eval_loss_delta),
        )
        return [
            f"{what}: {name} must be {sign} {limit:g}, but is {value:.3g}"
            for name, value, sign, limit in rules
            if (value > limit if sign == "<=" else value < limit)
        ]

    def control_failures(self, effect: float, what: str) -> list[str]:
        """The control: training must change more than saving and merging lose.

        An adapter without any effect would pass every other comparison.

        Args:
            effect: mean KL between the base and what was trained.
            what: names the comparison.
        """
        if effect * (1 - ROUNDED) > self.mean_kl or not self.is_finite:  # the latter is a violation already
            return []
        return [
            f"{what}: training must change the base's output more than saving and merging change what was trained, but"
            f" mean KL is {effect:.3g} and {self.mean_kl:.3g}"
        ]


def completion_logits(
    model: Any,
    rows: Sequence[Row],
    *,
    batch_size: int = 8,
    seconds: list[float] | None = None,
    pad: Callable[[Sequence[Row], Any], Batch] | None = None,
) -> tuple[Tensor, Tensor]:
    """Next-token logits over the completion tokens of rows, by nothing but the model's own forward pass.

    It shares no code with what training computes, which it is compared with.

    Args:
        model: a causal language model, or a PEFT model around one.
        rows: ``input_ids`` and ``labels``, a label of -100 for each prompt token.
        batch_size: rows per forward pass, at most; see `batches`.
        seconds: the time of each forward pass per token, padding among them, is appended to it.
        pad: makes rows a batch; None is `padded`.

    Returns:
        float32 logits of shape (completion tokens, vocabulary) and labels of shape (completion tokens,), on the CPU.
    """
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]["input_ids"]))  # so that few are padded much
    logits, labels = [], []
    for batch in batches([rows[number] for number in order], model, batch_size, pad):
        started = time.perf_counter()
        for some, following in _completion_logits(model, batch):  # on the CPU: nothing is left for a GPU to do
            logits.append(some)
            labels.append(following)
        if seconds is not None:
            seconds.append((time.perf_counter() - started) / batch["input_ids"].numel())
    places = [order.index(number) for number in range(len(rows))]
    return torch.cat([logits[place] for place in places]), torch.cat([labels[place] for place in places])


@torch.no_grad()
def _completion_logits(model: Any, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """The same of each row of a batch. Positions before all completions are left out where the model does that."""
    following = batch["labels"][:, 1:]
    is_completion = following != -100
    first = int(is_completion.any(dim=0).int().argmax()) if _leaves_out(model) else 0
    asked = {"logits_to_keep": following.shape[1] + 1 - first} if first else {}
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False, **asked).logits[:, :-1]
    chosen = is_completion[:, first:].to(logits.device)
    return [
        (row[mask].float().cpu(), labels[is_there].cpu())
        for row, mask, labels, is_there in zip(logits, chosen, following, is_completion, strict=True)
    ]


def _leaves_out(model: Any) -> bool:
    """Whether a model computes the last positions' logits alone, when asked, and these as it would among all.

    So do those of transformers, which ask for the very last when they generate. Code of others may change logits by
    those of other positions.
    """
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    is_known = type(plain).__module__.startswith("transformers.models.")
    return is_known and "logits_to_keep" in inspect.signature(plain.forward).parameters


def mean_loss(model: Any, rows: Sequence[Row], *, batch_size: int = 8) -> float:
    """Mean negative log-likelihood of the completion tokens of rows, in nats; it does not depend on the batch size."""
    total, tokens = 0.0, 0
    for start in range(0, len(rows), batch_size):
        logits, labels = completion_logits(model, rows[start : start + batch_size], batch_size=batch_size)
        total += functional.cross_entropy(logits, labels, reduction="sum").item()
        tokens += len(labels)
    return total / tokens


def batches(
    rows: Sequence[Row], model: Any, batch_size: int = 8, pad: Callable[[Sequence[Row], Any], Batch] | None = None
) -> Iterator[Batch]:
    """Rows as padded batches of at most so many rows; of fewer where these would hold more than `TOKENS` tokens."""
    size = max(1, min(batch_size, TOKENS // max(len(row["input_ids"]) for row in rows)))
    for start in range(0, len(rows), size):
        yield (pad or padded)(rows[start : start + size], model)


def padded(rows: Sequence[Row], model: Any) -> Batch:
    """Rows padded on the right; the padding is masked, so that any token will do."""
    width = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, filler: int) -> Tensor:
        return torch.tensor([list(r[name]) + [filler] * (width - len(r[name])) for r in rows], device=model.device)

    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
    return {
        "input_ids": filled("input_ids", 0),
        "labels": filled("labels", -100),
        "attention_mask": mask.to(model.device),
    }


def compare(reference: Tensor, other: Tensor, labels: Tensor) -> Difference:
    """Compares two models' logits of shape (tokens, vocabulary) over the same tokens."""
    size = max(1, COMPARED // reference.shape[1])
    parts = zip(*(torch.split(each, size) for each in (reference, other, labels)), strict=True)
    kl, loss_delta, largest, agreeing = (torch.cat(each) for each in zip(*(_compared(*p) for p in parts), strict=True))
    mean_kl = kl.mean().item()
    return Difference(
        max_abs_logit_diff=largest.max().item(),
        mean_kl=mean_kl if mean_kl != mean_kl else max(mean_kl, 0.0),  # rounding can leave -1e-17; a NaN stays one
        top1_agreement=agreeing.double().mean().item(),
        eval_loss_delta=loss_delta.mean().item(),
    )


def _compared(reference: Tensor, other: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """KL, difference of the losses, largest difference of a logit and agreement; each of shape (tokens,)."""
    one, two = (functional.log_softmax(logits.double(), dim=-1) for logits in (reference, other))
    chosen = labels[:, None]
    return (
        (one.exp() * (one - two)).sum(-1),
        (one.gather(1, chosen) - two.gather(1, chosen))[:, 0],
        (reference - other).abs().amax(-1),
        reference.argmax(-1) == other.argmax(-1),
    )


def with_remedy(failures: Sequence[str], dtype: str, difference: Difference, setting: str) -> list[str]:
    """Adds a remedy to the last rule that a merge broke, when the same merge is right in float32.

    Args:
        failures: the rules that were broken, in words.
        dtype: the precision that was merged to.
        difference: between the merged model and the adapter.
        setting: what a user writes before a precision: ``verify.merge_dtype=``.
    """
    if not failures or dtype == "float32":
        return list(failures)
    if not difference.is_finite:
        why = f"{dtype} ends at {torch.finfo(getattr(torch, dtype)).max:g}, and this model goes beyond"
        remedy = f"take {setting}float32 or {setting}bfloat16"
    else:
        why = f"{dtype}'s grid is too coarse for this update"
        finer = f"{setting}float16 (a finer grid) or {setting}float32" if dtype == "bfloat16" else f"{setting}float32"
        remedy = f"keep the adapter unmerged, or take {finer}"
    return [*failures[:-1], f"{failures[-1]}; {why}: {remedy}"]
