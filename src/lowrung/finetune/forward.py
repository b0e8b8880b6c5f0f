"""Does the model read the data? Its own forward pass over real rows, before the first run.

No config tells what a model does beside its head, or how many tokens it takes: only the model does.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.compute
import torch
from datasets import Dataset

from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError, in_short, is_out_of_memory
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.gate.difference import padded
from lowrung.finetune.models import context, generate, head, pretrained, score
from lowrung.finetune.models.head import LabelledLogits
from lowrung.finetune.training import memory


def notes(base: ModelConf, rows: Prepared, *, new_tokens: int, scores: Sequence[str]) -> list[str] | None:
    """Loads the model and lets it read the data.

    Where memory does not suffice nothing is known: a run may have more of it, and one that has not says so itself.

    Args:
        base: the base model, with the settings that it is loaded with.
        rows: the data.
        new_tokens: the tokens that the gate generates from a prompt; 0 where there is no gate.
        scores: the metrics of generated text.

    Returns:
        what the user should know: that the head sees all tokens, that the model would add to the loss, and that
        answers end where the context does; None where memory does not suffice.

    Raises:
        UsageError: when the model cannot read the rows.
    """
    if scores:
        new_tokens = max(new_tokens, generate.most_answer_tokens(rows.eval))
    found = None
    try:
        found = _notes(pretrained.load_base(base, pretrained.device()), rows, new_tokens)
    except UsageError:
        raise
    except Exception as error:  # whatever a foreign model's code raises
        if not is_out_of_memory(error):
            raise UsageError(
                f"The model must load and read a row of the data, but {base.path} raises {in_short(error)}. Take"
                " another model.path, or other settings under model."
            ) from error
    memory.free()
    return found


def _notes(model: Any, rows: Prepared, new_tokens: int) -> list[str]:
    batch = padded(head.probe_rows(rows.eval), model)
    way = head.choose(model, batch)
    found = [_HEAD_NOTE] if way is head.on_all_tokens else []
    is_joining = model.device.type == "cpu"  # as a rule
    if is_joining and not found and (why := head.why_padded(model, way)):
        found.append(f"rows are padded to one length in training, which takes longer: this model's forward pass {why}")
    found += _loss_notes(model, batch)
    prompts = [generate.prompt_tokens(row) for row in rows.eval]
    limit = context.limit(model.config)
    rooms = context.rooms(prompts, new_tokens, limit)
    continued = max((prompt + prompt[-1:] * room for prompt, room in zip(prompts, rooms, strict=True)), key=len)
    _read(model, max(_longest(rows.train), _longest(rows.eval), continued, key=len), way)
    if short := sum(room < new_tokens for room in rooms):
        found.append(
            f"{short} of {len(prompts)} held-out prompts leave fewer than {new_tokens} of the model's {limit} tokens:"
            " what is generated from them ends there"
        )
    return found


_HEAD_NOTE = (
    "this model's forward pass does more with its head than predict each token by itself, so training computes the"
    " logits of all tokens, not of the labelled ones alone: right, but slower"
)


@torch.no_grad()
def _loss_notes(model: Any, batch: head.Batch) -> Iterator[str]:
    """Compares the loss that training computes with the one that the model computes itself, where it computes any."""
    logits, labels = head.on_all_tokens(model, batch)
    ours = score.negative_log_likelihood(logits, labels).item() / labels.numel()
    try:
        own = float(model(**batch).loss)
    except Exception:  # not every forward pass takes labels
        return
    if not math.isclose(ours, own, rel_tol=1e-4):
        yield (
            f"this model computes a loss of its own, {own:.4g} where that of its tokens is {ours:.4g}: training takes"
            " that of the tokens, without terms such as a router's"
        )


def _longest(rows: Dataset) -> list[int]:
    lengths = pyarrow.compute.list_value_length(rows.data.column("input_ids"))
    ids: list[int] = rows[pyarrow.compute.index(lengths, pyarrow.compute.max(lengths)).as_py()]["input_ids"]
    return ids


@torch.no_grad()
def _read(model: Any, ids: Sequence[int], labelled_logits: LabelledLogits) -> None:
    """A forward pass over one row, with the last token's logits.

    Raises:
        UsageError: when it is too long for the model, which has read short rows.
    """
    tokens = torch.tensor([ids], device=model.device)
    labels = torch.full_like(tokens, -100)
    labels[:, -1] = tokens[:, -1]
    try:
        labelled_logits(model, {"input_ids": tokens, "labels": labels})
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(
            "The model must be able to read the longest row, or the longest prompt with what is generated from it, but"
            f" with {len(ids)} tokens it raises {in_short(error)}. Lower data.max_length or verify.new_tokens."
        ) from error
