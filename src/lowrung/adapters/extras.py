"""What an adapter brings beside its low-rank updates: tensors and rows in the place of the base's own."""

import dataclasses
from collections.abc import Collection, Container, Iterable, Mapping, Sequence

from peft import LoraConfig
from torch import Tensor

from lowrung.adapters import vocabulary
from lowrung.adapters.files import PREFIX, ROWS, Saved, place
from lowrung.finetune.models import pretrained
from lowrung.finetune.models.pretrained import Base


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a matrix: their numbers, and their values of shape (rows, width)."""

    numbers: Sequence[int]
    values: Tensor


@dataclasses.dataclass(frozen=True)
class Entry:
    """An adapter in memory; of what it has, PEFT holds the low-rank part alone.

    Attributes:
        key: PEFT's name of it, which may hold no dots.
        config: PEFT's settings, as they were read.
        whole: what takes the place of the base's own parameters, by their names: trained biases, heads, an embedding.
        rows: the rows that take the place of some of the base's, by the names of their matrices.
    """

    key: str
    config: LoraConfig
    whole: Mapping[str, Tensor]
    rows: Mapping[str, Rows]

    @classmethod
    def of(cls, saved: Saved, key: str, base: Base, own: Container[str]) -> "Entry":
        """An adapter as it was saved.

        Args:
            saved: the adapter.
            key: PEFT's name of it.
            base: the adapter's.
            own: the names of the base's parameters.
        """
        rows = {
            f"{matrix}.weight": Rows(numbers, saved.tensors[tensor])
            for matrix, numbers in vocabulary.trained_rows(saved.config, pretrained.skeleton(base)).items()
            if (tensor := f"{PREFIX}{matrix}{ROWS}") in saved.tensors  # those of a tied head are the embedding's
        }
        others = saved.tensors.keys() - low_rank(saved).keys()
        return cls(key, saved.config, {place(name): saved.tensors[name] for name in others if place(name) in own}, rows)

    def is_apart(self, parameter: str) -> bool:
        """Whether a tensor is trained as one of ``modules_to_save``, which lets go of what is tied to it."""
        named = () if self.config.ensure_weight_tying else self.config.modules_to_save or ()
        return any(f".{name}." in f".{parameter}" for name in named)

    def tensors(self, low_rank: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All that the adapter has, by the names of a file.

        Args:
            low_rank: what PEFT holds of it, by these names.
        """
        rows = {f"{PREFIX}{module_of(matrix)}{ROWS}": rows.values for matrix, rows in self.rows.items()}
        held = {**low_rank, **rows}
        kept_in = {parameter: _kept_in(f"{PREFIX}{module_of(parameter)}", held) for parameter in self.whole}
        return held | {f"{kept_in[name]}.{name.rpartition('.')[2]}": value for name, value in self.whole.items()}


def low_rank(saved: Saved) -> dict[str, Tensor]:
    """The low-rank part of an adapter, by the names of its file."""
    return {name: tensor for name, tensor in saved.tensors.items() if ".lora_" in name}


def trained_rows(entries: Iterable[Entry]) -> dict[str, list[int]]:
    """The rows that any of some adapters trains, by their matrix."""
    found: dict[str, set[int]] = {}
    for entry in entries:
        for matrix, rows in entry.rows.items():
            found.setdefault(matrix, set()).update(rows.numbers)
    return {matrix: sorted(numbers) for matrix, numbers in found.items()}


def module_of(parameter: str) -> str:
    """The name of the module that has a parameter of this name."""
    return parameter.rpartition(".")[0]


def _kept_in(module: str, held: Collection[str]) -> str:
    """The name of a module's own tensors in a file, which PEFT may have wrapped for rows or for a low-rank update."""
    if f"{module}{ROWS}" in held:
        return f"{module}.token_adapter.base_layer"
    is_adapted = any(name.startswith(f"{module}.lora_") for name in held)
    return f"{module}.base_layer" if is_adapted else module
