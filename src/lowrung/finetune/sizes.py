"""The sizes that a run's memory and time follow from, counted on the meta device: no weight is read."""

import dataclasses
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from datasets import Dataset
from peft.utils import ModulesToSaveWrapper
from transformers import PreTrainedModel

from lowrung.config import schema, source
from lowrung.config.schema import LoraConf, ModelConf, TrainConf
from lowrung.costs.sizes import (
    BaseSizes,
    RowSizes,
    TrainedSizes,
    at_rank,
    counted_model,
    rank_of,
    sized_key,
    trained_key,
)
from lowrung.errors import in_short
from lowrung.finetune import guess, passes
from lowrung.finetune.lora import injection, products, settings
from lowrung.finetune.models import pretrained
from lowrung.finetune.passes import Counted
from lowrung.store import layout, sealed

PERCENTILES = 101

LENGTHS = (64, 128, 256)
"""Tokens of the rows that passes are counted over: three, for what a pass, a token and a pair of tokens take. Linear
attention fills its chunks, often of 64 tokens."""


def of_base(base: ModelConf) -> BaseSizes:
    """The sizes of a base model; of the hub's, config and tokenizer alone are fetched."""
    base = pretrained.without_weights(base)
    model = pretrained.skeleton(base)
    linear = [int(layer.weight.numel()) for layer in _linear(model)]
    head: Any = model.get_output_embeddings() or model.get_input_embeddings()
    folder = pretrained.folder_of(base)
    return BaseSizes(
        parameters=model.num_parameters(),
        quantizable=sum(linear),
        largest=max(linear, default=0),
        width=int(head.weight.shape[1]),
        vocabulary=int(head.weight.shape[0]),
        layers=int(getattr(model.config.get_text_config(), "num_hidden_layers", 1)),
        stored_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        guesses=tuple(_size_guesses(model.config, folder)),
    )


SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "num_attention_heads")
"""What the sizes of most models follow from, by the names that configs of transformers share."""


def _size_guesses(config: Any, folder: Path) -> Iterator[str]:
    """What is taken for the sizes that config.json does not say; a hub's may leave out those that are the defaults."""
    own = config.get_text_config()
    known = inspect.signature(type(own)).parameters
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written = next((part for name, part in written.items() if getattr(config, name, None) is own), written)
    names = {size: own.attribute_map.get(size, size) for size in SIZES}
    absent = [name for size, name in names.items() if name in known and not {size, name} & set(written)]
    if absent:
        taken = ", ".join(f"{name}={getattr(own, name)}" for name in absent)
        yield f"config.json does not say {', '.join(absent)}: {taken} is taken, as transformers has it"


def _linear(model: PreTrainedModel) -> list[Any]:
    return list(settings.all_linear_layers(model).values())


# -- what is trained ---------------------------------------------------------------------------------------------------


def of_trained(
    base: ModelConf, adapters: Sequence[LoraConf], trains: Sequence[TrainConf], device: str | None = None
) -> Mapping[str, Mapping[int, TrainedSizes]]:
    """The sizes of each adapter with each way to train it, by `trained_key`, and of each by its ranks.

    Passes are counted at the least and at the greatest rank of adapters that only differ in it: between these, each
    size is a constant and a part that grows with the rank.

    Args:
        base: the base model; of the hub's, config and tokenizer alone are fetched.
        adapters: the settings of each adapter.
        trains: each way in which it is trained.
        device: ``cpu`` or ``cuda``, where runs compute on another than this process. What a GPU does that is not here
            is taken from the CPU's kernels, in bfloat16 and with padded rows.
    """
    base = pretrained.without_weights(base)
    found: dict[str, dict[int, TrainedSizes]] = {}
    ways = {train.gradient_checkpointing: train for train in trains}
    for ranks in _alike(adapters):
        one = next(iter(ranks.values()))
        counted = ranks if one.peft else {min(ranks), max(ranks)}  # nobody knows how PEFT's other options grow
        trained = {rank: _Trained.of(base, ranks[rank], device or pretrained.device().type) for rank in counted}
        for checkpointing, train in ways.items():
            known = {rank: each.sizes(checkpointing) for rank, each in trained.items()}
            between = {rank: at_rank(known, rank) for rank in ranks}
            found[trained_key(one, train)] = {rank: each for rank, each in between.items() if each is not None}
    return found


def _alike(adapters: Sequence[LoraConf]) -> Iterator[dict[int, LoraConf]]:
    """Adapters that only differ in what no size follows from, and in their ranks: one for each."""
    found: dict[str, dict[int, LoraConf]] = {}
    for lora in adapters:
        found.setdefault(sized_key(lora), {}).setdefault(rank_of(lora), lora)
    yield from found.values()


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What is trained on a base, and passes over it.

    Attributes:
        parameters: how many.
        bytes: theirs.
        passes: over rows of `LENGTHS`.
        guesses: what could not be counted.
    """

    parameters: int
    bytes: int
    passes: Sequence[Counted]
    guesses: tuple[str, ...]

    @classmethod
    def of(cls, base: ModelConf, lora: LoraConf, kind: str) -> "_Trained":
        """It, as it is trained on a device of this kind: what was counted before, or else is counted now."""
        record = _record(base, lora, kind)
        if fields := record and sealed.read(record):
            passes = [Counted(**each) for each in fields["passes"]]
            return cls(fields["parameters"], fields["bytes"], passes, tuple(fields["guesses"]))
        counted, is_sure = cls._counted(base, lora, kind)
        if record and is_sure:  # a guess may be for want of time
            sealed.keep(record, {**dataclasses.asdict(counted), "guesses": list(counted.guesses)})
        return counted

    @classmethod
    def _counted(cls, base: ModelConf, lora: LoraConf, kind: str) -> tuple["_Trained", bool]:
        """It, counted now, and whether nothing of its passes had to be guessed."""
        model = _model(base, lora, kind)
        trained = [each for each in model.parameters() if each.requires_grad]
        guesses = [_EVA] if lora.init == "eva" and not lora.is_full else []
        found, why = _passes(base, lora, kind, model)
        if is_guessed := not found:
            guesses.append(_GUESS.format(why=why))
            found = guess.passes(pretrained.skeleton(base), trained, LENGTHS, is_full=lora.is_full)
        held = sum(each.numel() * each.element_size() for each in trained)
        return cls(sum(each.numel() for each in trained), held, found, tuple(guesses)), not is_guessed

    def sizes(self, checkpointing: bool) -> TrainedSizes:
        """They, as the formulas take them."""
        saved = [each.checkpointed if checkpointing else each.saved for each in self.passes]
        counts = {
            "flops": [each.forward for each in self.passes],
            "backward_flops": [each.backward for each in self.passes],
            "saved": saved,
        }
        terms = {f"{name}_{term}": value for name, each in counts.items() for term, value in _terms(each).items()}
        return TrainedSizes(self.parameters, self.bytes, **terms, guesses=self.guesses)


def _record(base: ModelConf, lora: LoraConf, kind: str) -> Path | None:
    """Where counts are kept, for all data, seeds and stores: to count takes 1 s. None where code is the model's own."""
    if base.trust_remote_code:
        return None
    config = pretrained.config_of(base).to_json_string(use_diff=False)
    settings = dataclasses.replace(counted_model(base), path="", revision=None)
    libraries = [library.__version__ for library in (torch, transformers, peft)]
    rows = list(pretrained.added_rows(base))
    own = [config, settings, sized_key(lora), rank_of(lora), rows, kind, str(pretrained.device())]
    return layout.sizes_record(schema.digest([source.digest(), sys.version, libraries, own]))


def _passes(base: ModelConf, lora: LoraConf, kind: str, model: Any) -> tuple[Sequence[Counted], str]:
    """Passes over rows of `LENGTHS`; none where they cannot be counted, and why."""
    here, why = pretrained.device(), ""
    device = here if here.type == kind else torch.device("cpu")
    for way in ({}, {"masked": False}, {"alike": False}):
        try:
            return passes.counted(model, LENGTHS, device, **way), ""
        except TimeoutError as error:
            return (), str(error)
        except Exception as error:  # whatever a foreign model's code raises where tensors have no numbers
            why = why or in_short(error)
        model = _model(base, lora, kind)
    return (), why


_EVA = "lora.init=eva spreads the ranks by the data: each layer is taken with the rank of its settings"

_GUESS = (
    "operations and activations follow from the sizes of the layers, since the model's forward pass cannot be counted"
    " ({why})"
)


def _terms(counts: Sequence[float]) -> dict[str, float]:
    """c, a, b of c + a L + b L², which takes these values at `LENGTHS`."""
    (one, two, three), (x, y, z) = LENGTHS, counts
    slope, next_slope = (y - x) / (two - one), (z - y) / (three - two)
    per_pair = (next_slope - slope) / (three - one)
    per_token = slope - per_pair * (one + two)
    return {"fixed": x - per_token * one - per_pair * one**2, "per_token": per_token, "per_pair": per_pair}


def _model(base: ModelConf, lora: LoraConf, kind: str) -> Any:
    """The model as it is trained on a device of this kind, but on the meta device."""
    model: Any = pretrained.skeleton(base)
    is_quantized = base.quantization != "none"
    in_full = is_quantized or (lora.is_full and base.dtype == "auto")  # what is not quantised is put in float32
    model.to(torch.float32 if in_full else _dtype(base.dtype, kind))
    passes.settle_attention(model, base.attn_implementation, kind)
    if lora.is_full:
        return model.requires_grad_(True)
    adapted = injection.adapted(model, lora, pretrained.added_rows(base))
    if is_quantized:
        _hold_as_on_a_quantized_base(adapted)
    products.settle(adapted)
    return adapted


def _dtype(name: str, kind: str) -> torch.dtype:
    here = pretrained.device()
    if name == "auto" and kind == "cuda" and here.type == "cpu":
        return torch.bfloat16  # whatever that GPU is, it is none of the oldest
    return pretrained.dtype_for(name, here if kind == "cuda" else torch.device("cpu"))


def _hold_as_on_a_quantized_base(model: Any) -> None:
    """In bfloat16, as SFTTrainer does; but not DoRA's magnitudes, nor what is trained whole."""
    whole = [module.modules_to_save for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    kept = {id(parameter) for module in whole for parameter in module.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in kept and "lora_magnitude_vector" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)


# -- rows --------------------------------------------------------------------------------------------------------------


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
