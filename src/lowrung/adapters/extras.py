"""What an adapter has beside its low-rank updates: whole tensors and single rows that replace those of the base."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor

from lowrung.adapters import vocabulary
from lowrung.adapters.base_tensors import BaseTensors
from lowrung.adapters.files import PREFIX, ROWS, Saved, base_name
from lowrung.adapters.injected import Slot
from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained


@dataclasses.dataclass(frozen=True)
class MatrixRows:
    """Some rows of a matrix.

    Attributes:
        indices: which rows.
        values: of shape (rows, width).
    """

    indices: Sequence[int]
    values: Tensor


@dataclasses.dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in memory. PEFT holds its low-rank part alone; the rest is here.

    Attributes:
        key: PEFT's name of the adapter, which may hold no dots.
        config: PEFT's settings, as they were read.
        folder: where it was read, or for a combined adapter where its first part was; its tokenizer is there.
        whole: tensors that replace the base's, by name: trained biases, a head, an embedding.
        rows: rows that replace some of the base's, by the name of their matrix.
    """

    key: str
    config: LoraConfig
    folder: Path
    whole: Mapping[str, Tensor]
    rows: Mapping[str, MatrixRows]

    @classmethod
    def of(cls, saved: Saved, key: str, base: ModelConf, tensors: BaseTensors) -> "LoadedAdapter":
        """An adapter as it was saved.

        Args:
            saved: the adapter.
            key: PEFT's name of it.
            base: the adapter's base.
            tensors: the base's.
        """
        rows = {
            f"{matrix}.weight": MatrixRows(indices, saved.tensors[tensor])
            for matrix, indices in vocabulary.trained_rows(saved.config, pretrained.skeleton(base)).items()
            if (tensor := f"{PREFIX}{matrix}{ROWS}") in saved.tensors  # those of a tied head are the embedding's
        }
        others = {
            base_name(name): saved.tensors[name] for name in saved.tensors.keys() - low_rank_tensors(saved).keys()
        }
        whole = {name: tensor for name, tensor in others.items() if name in tensors}
        return cls(key, saved.config, saved.folder, whole, rows)

    def replace_in(self, base: BaseTensors) -> None:
        """Puts the tensors and rows of this adapter into the base model."""
        for name, value in self.replacements(base).items():
            base.replace(name, value)

    def replacements(self, base: BaseTensors, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """What this adapter has in the place of the base's tensors, by each of their names.

        Args:
            base: the base's tensors.
            dtype: the precision of a matrix of which it has single rows; None is the base's.
        """
        found: dict[str, Tensor] = {}
        for name, value in self.whole.items():
            found |= dict.fromkeys([name] if self._is_untied(name) else base.sharing(name), value)
        for matrix, rows in self.rows.items():
            own = base.original(matrix)
            current = found.get(matrix, own).to(own.device, dtype or own.dtype)
            indices = torch.tensor(rows.indices, device=current.device)
            found |= dict.fromkeys(base.sharing(matrix), current.index_copy(0, indices, rows.values.to(current)))
        return found

    def _is_untied(self, name: str) -> bool:
        """Whether a tensor is trained as one of ``modules_to_save``, which unties it."""
        modules = () if self.config.ensure_weight_tying else self.config.modules_to_save or ()
        return any(f".{module}." in f".{name}" for module in modules)

    def tensors(self, low_rank: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of the adapter, by the names that they have in a file.

        Args:
            low_rank: those that PEFT holds, by these names.
        """
        rows = {f"{PREFIX}{module_of(matrix)}{ROWS}": rows.values for matrix, rows in self.rows.items()}
        held = {**low_rank, **rows}
        modules = {name: _module_in_file(f"{PREFIX}{module_of(name)}", held) for name in self.whole}
        return held | {f"{modules[name]}.{name.rpartition('.')[2]}": value for name, value in self.whole.items()}


def low_rank_tensors(saved: Saved) -> dict[str, Tensor]:
    """The low-rank part of an adapter, by the names in its file."""
    return {name: tensor for name, tensor in saved.tensors.items() if ".lora_" in name}


def low_rank_config(saved: Saved, slots: Iterable[Slot]) -> LoraConfig:
    """PEFT's settings for the low-rank part of an adapter.

    Args:
        saved: the adapter.
        slots: where it changes its base.
    """
    return dataclasses.replace(
        saved.config,
        inference_mode=True,
        init_lora_weights=True,  # the file's factors replace them
        # `LoadedAdapter` has the rest: PEFT knows one adapter with biases at a time, and holds adapters that train
        # single rows only beside others that do.
        bias="none",
        modules_to_save=None,
        trainable_token_indices=None,
        # Its layers by their full names: PEFT combines no adapters whose settings name layers by a regular expression
        # or by numbers.
        target_modules=[slot.target for slot in slots if not slot.is_parameter],
        exclude_modules=None,
        layers_to_transform=None,
        layers_pattern=None,
    )


def trained_rows(adapters: Iterable[LoadedAdapter]) -> dict[str, list[int]]:
    """The rows that any of some adapters trains, by the name of their matrix."""
    found: dict[str, set[int]] = {}
    for adapter in adapters:
        for matrix, rows in adapter.rows.items():
            found.setdefault(matrix, set()).update(rows.indices)
    return {matrix: sorted(indices) for matrix, indices in found.items()}


def module_of(parameter: str) -> str:
    """The name of the module that has a parameter of this name."""
    return parameter.rpartition(".")[0]


def _module_in_file(module: str, held: Collection[str]) -> str:
    """The name in a file of a module whose tensors are saved whole: PEFT wraps it where it trains rows or factors."""
    if f"{module}{ROWS}" in held:
        return f"{module}.token_adapter.base_layer"
    is_adapted = any(name.startswith(f"{module}.lora_") for name in held)
    return f"{module}.base_layer" if is_adapted else module
