"""Next-token logits where there is a label, by the model's own forward pass, with as little else computed as it allows.

The head of a small model costs as much as many of its layers, and prompt tokens have no label: on a CPU a training step
takes 0.55 to 0.7 of the time when the head sees labelled tokens only (SmolLM2-135M, 8 rows of 86 tokens). A batch's
rows have unequal lengths, and without padding, as one row, they take 0.82 of the time (8 rows of 64 tokens, padded by a
fifth). Whatever a model does before its head and to its logits stays the model's own. Where that is more than each
token's own affair, or a token sees more than its own example, the ways differ; `choose` measures it, since no list of
models could tell.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lowrung.finetune.models import attention, generators

Row = Mapping[str, Any]
"""An example as tokens: ``input_ids``, and ``labels`` of the same length, a label of -100 being no label."""

Batch = dict[str, Tensor]
"""``input_ids`` and ``labels``, each of shape (batch, tokens), a label of -100 being no label; and, of the same shape,
``attention_mask`` where rows are padded, or ``position_ids`` that begin at 0 with each example of a packed row."""

LabelledLogits = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
"""Takes a causal language model, or a PEFT model around one, and a batch as the trainer's collator makes it. Returns
logits of shape (labelled tokens, vocabulary) and their labels of shape (labelled tokens,)."""

PROBE = 32
"""Tokens of a row that `choose` compares: with 262,144 words, two such rows have 50 MB of logits in float32."""

MOST_JOINED = 4096
"""The most tokens of rows that are joined: their mask has a byte for each pair of tokens, 16 MB for so many."""


def on_all_tokens(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The logits of a plain forward pass, at the positions that predict a labelled token; see `LabelledLogits`."""
    is_labelled, labels = _labelled(batch)
    logits = model(**_inputs(batch), use_cache=False).logits[:, :-1]
    return logits[is_labelled.to(logits.device)], labels


def on_labelled_tokens(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same, but the head gets the hidden states of these positions only; see `LabelledLogits`.

    Raises:
        Exception: whatever a forward pass raises that cannot do with them; `choose` has seen that it can.
    """
    is_labelled, labels = _labelled(batch)

    def select(_: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        (hidden,) = given
        return hidden[:, :-1][is_labelled.to(hidden.device)]

    inner = model.module if isinstance(model, DistributedDataParallel) else model
    selecting = inner.get_output_embeddings().register_forward_pre_hook(select)
    try:
        return model(**_inputs(batch), use_cache=False).logits, labels
    finally:
        selecting.remove()


def on_joined_rows(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same, with the rows of a padded batch one behind the other, and without padding; see `LabelledLogits`.

    The logits come in the same order. Rows of more than `MOST_JOINED` tokens stay padded.
    """
    mask = batch.get("attention_mask")
    is_short = mask is not None and int(mask.sum()) <= MOST_JOINED
    return on_labelled_tokens(model, joined(batch) if is_short else batch)


def joined(batch: Batch) -> Batch:
    """The rows of a padded batch as one row, with position numbers that begin again with each."""
    is_token = batch["attention_mask"].bool()
    positions = (is_token.cumsum(1) - 1)[is_token]
    labels = batch["labels"][is_token].masked_fill(positions == 0, -100)  # the row before would predict it
    row = {"input_ids": batch["input_ids"][is_token], "labels": labels, "position_ids": positions}
    return {name: tensor[None] for name, tensor in row.items()}


def _labelled(batch: Batch) -> tuple[Tensor, Tensor]:
    labels = batch["labels"][:, 1:]
    is_labelled = labels != -100
    return is_labelled, labels[is_labelled]


def _inputs(batch: Batch) -> Batch:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}


def probe_rows(rows: Sequence[Row]) -> list[Row]:
    """Two short rows for `choose`, of real tokens: the end of the first row, and half as much of the end of the last.

    So one of them is padded, and each ends with labels, as every row does.
    """
    width = min(PROBE, len(rows[0]["input_ids"]))
    return [
        {name: list(row[name])[-size:] for name in ("input_ids", "labels")}
        for row, size in ((rows[0], width), (rows[-1], max(2, width // 2)))
    ]


def choose(model: nn.Module, batch: Batch, *, joins: bool = True) -> LabelledLogits:
    """The quickest of the ways that give what the model itself says to the batch as it is.

    The head on labelled tokens is compared in training and in evaluation. Dropout draws the same random numbers both
    times; torch's generators are left as they were. Joined rows are compared in evaluation alone, since dropout draws
    none for padding there. Where they are right, the model attends example by example from now on; see
    `lowrung.finetune.models.attention`.

    Args:
        model: as it will be trained: with its adapter, in its precision, on its device.
        batch: some rows of the data, of unequal lengths.
        joins: whether rows may be joined at all.
    """
    was_training = model.training
    attention.unsettle(model)
    try:
        with generators.kept(model):
            return _chosen(model, batch, joins)
    finally:
        model.train(was_training)


@torch.no_grad()
def _chosen(model: nn.Module, batch: Batch, joins: bool) -> LabelledLogits:
    if not _is_near(_own(model.train(), batch), on_labelled_tokens, model, batch):
        return on_all_tokens
    whole = _with_all_labels(batch)
    own = _own(model.eval(), whole)
    if not _is_near(own[_is_labelled_in(batch, whole)], on_labelled_tokens, model, batch):
        return on_all_tokens
    return on_joined_rows if joins and _joins(model, whole, own) else on_labelled_tokens


def why_padded(model: Any, way: LabelledLogits) -> str | None:
    """Why rows of unequal lengths are padded, in words; None where they are joined."""
    if way is on_joined_rows:
        return None
    used = attention.name(model)
    if attention.joins(model):
        return f"does not keep examples in one row apart, although it has {used} attention"
    kind = model.device.type.upper().replace("CUDA", "GPU")
    return f"has {used} attention on a {kind}, which takes no rows of unequal lengths as one"


def _own(model: nn.Module, batch: Batch) -> Tensor:
    """What the model itself says, drawing what every way draws when it is compared."""
    torch.manual_seed(0)
    return on_all_tokens(model, batch)[0]


def _with_all_labels(batch: Batch) -> Batch:
    """A padded batch with a label on each token: what leaks into a row may reach its first tokens alone."""
    if "attention_mask" not in batch:
        return batch
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def _is_labelled_in(batch: Batch, whole: Batch) -> Tensor:
    """Which of the logits of a batch with all labels are those of a batch with its own."""
    return _labelled(batch)[0][_labelled(whole)[0]]


def _joins(model: nn.Module, whole: Batch, own: Tensor) -> bool:
    """Whether rows may be joined; a model in evaluation mode attends example by example afterwards, if so."""
    if not attention.joins(model):
        return False
    attention.settle(model)
    if _is_near(own, on_joined_rows, model, whole):
        return True
    attention.unsettle(model)
    return False


def _is_near(own: Tensor, way: LabelledLogits, model: nn.Module, batch: Batch) -> bool:
    torch.manual_seed(0)
    try:
        other, _ = way(model, batch)
    except Exception:  # no head to be found, or a forward pass that counts on all positions: anything is possible
        return False
    return other.shape == own.shape and _is_close(own, other, _rounding(model, own))


def _is_close(own: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether all logits are equal up to rounding, words that are masked out (-inf) among them."""
    one, two = own.float(), other.to(own.device).float()
    scale = one.abs().median().item()  # the median: a mask may be -3e38
    return bool(torch.isclose(two, one, rtol=tolerance, atol=tolerance * scale).all())


def _rounding(model: nn.Module, logits: Tensor) -> float:
    """The largest relative difference that is rounding.

    Both ways multiply the same numbers, in products of other shapes, whose sums may be taken in another order. On a CPU
    SmolLM2-135M and 45 small architectures gave the same to the bit, in float32 and in bfloat16.
    """
    held = (tensor.dtype for tensor in (logits, *model.parameters()) if tensor.is_floating_point())
    return max(1e-5, 4 * max(torch.finfo(dtype).eps for dtype in held))
