"""The sizes that a run's memory and time follow from, counted on the meta device: no weight is read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from lowrung.config.schema import LoraConf, ModelConf, TrainConf
from lowrung.costs.sizes import BaseSizes, RowSizes, TrainedSizes, rank_of, trained_key
from lowrung.finetune.lora import injection, settings
from lowrung.finetune.models import pretrained

PERCENTILES = 101


def of_base(base: ModelConf) -> BaseSizes:
    """The sizes of a base model."""
    model = pretrained.skeleton(base)
    layers: Iterable[Any] = settings.linear_layers(model).values()
    linear = [layer.weight.numel() for layer in layers]
    embedding: Any = model.get_input_embeddings()
    stored = sum(file.stat().st_size for file in pretrained.folder_of(base).glob("*.safetensors"))
    return BaseSizes(
        parameters=model.num_parameters(),
        quantizable=sum(linear),
        largest=max(linear),
        width=int(embedding.weight.shape[1]),
        vocabulary=int(embedding.weight.shape[0]),
        stored_bytes=stored,
    )


def of_trained(
    base: ModelConf, adapters: Sequence[LoraConf], trains: Sequence[TrainConf]
) -> Mapping[str, Mapping[int, TrainedSizes]]:
    """The sizes of each adapter with each way to train it, by `trained_key`, and of each by its ranks."""
    model, rows = pretrained.skeleton(base), pretrained.added_rows(base)
    found: dict[str, dict[int, TrainedSizes]] = {}
    for lora in adapters:
        for train in trains:
            ranks = found.setdefault(trained_key(base, lora, train), {})
            if rank_of(lora) not in ranks:
                ranks[rank_of(lora)] = _trained(model, lora, rows, train)
    return found


def _trained(model: PreTrainedModel, lora: LoraConf, rows: Sequence[int], train: TrainConf) -> TrainedSizes:
    parameters = model.num_parameters()
    trainable = parameters if lora.is_full else injection.trainable(model, lora, rows)
    saved = 4.0 * 20 * parameters**0.5
    return TrainedSizes(
        trainable=trainable,
        trainable_bytes=4 * trainable,
        flops_per_token=2.0 * parameters,
        flops_per_pair=0.0,
        saved_per_token=saved,
        saved_per_pair=0.0,
        guesses=("activations are a guess",),
    )


def of_rows(rows: Dataset) -> RowSizes:
    """The sizes of rows of ``input_ids`` and ``labels``."""
    tokens = torch.tensor([len(ids) for ids in rows["input_ids"]], dtype=torch.float64)
    labelled = torch.tensor([sum(label != -100 for label in labels[1:]) for labels in rows["labels"]]).double()
    shares = torch.linspace(0, 1, PERCENTILES, dtype=torch.float64)
    return RowSizes(
        rows=len(rows),
        tokens=tuple(int(value) for value in torch.quantile(tokens, shares).round()),
        labelled=tuple(int(value) for value in torch.quantile(labelled, shares).round()),
    )


def of_unknown_rows(rows: int, max_length: int) -> RowSizes:
    """Of rows that no tokenizer has read: as long as any may be, and with labels alone."""
    lengths = (max_length,) * PERCENTILES
    guess = f"each row is taken as data.max_length={max_length} tokens, since there is no tokenizer to count them"
    return RowSizes(rows, lengths, tuple(length - 1 for length in lengths), (guess,))


def flops_per_second(dtype: str) -> float:
    """How fast this process multiplies two matrices in this precision: operations a second, on its device."""
    import time

    device = pretrained.device()
    matrix = torch.ones(1024, 1024, dtype=pretrained.dtype_for(dtype, device), device=device)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        (matrix @ matrix).sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best
