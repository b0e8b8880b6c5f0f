"""The tensors of a base model: they step aside for the tensors of an adapter, and come back the same to the bit."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn


class _Original(NamedTuple):
    """A tensor of the base, and the module and the attribute that hold it, whatever PEFT wraps around the module."""

    module: nn.Module
    attribute: str
    tensor: Tensor


class BaseTensors:
    """The parameters and buffers of a base model by name. A tied tensor is there under each of its names.

    Args:
        model: the base, before any adapter is on it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._originals = {
            f"{path}.{attribute}" if path else attribute: _Original(module, attribute, tensor)
            for path, module in model.named_modules(remove_duplicate=False)
            for attribute, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None
        }
        self._replaced: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self._originals

    def original(self, name: str) -> Tensor:
        """The base's tensor of this name."""
        return self._originals[name].tensor.detach()

    def sharing(self, name: str) -> list[str]:
        """All names of the tensor that has this name: a tied head shares that of its embedding."""
        shared = self._originals[name].tensor
        return [other for other, original in self._originals.items() if original.tensor is shared]

    def tied(self, names: Iterable[str]) -> frozenset[str]:
        """All names of those of these tensors that have more than one name."""
        groups = (self.sharing(name) for name in names)
        return frozenset(name for group in groups if len(group) > 1 for name in group)

    def replace(self, name: str, value: Tensor) -> None:
        """Puts another tensor of the same shape into the model, in the original's dtype and on its device."""
        module, attribute, tensor = self._originals[name]
        value = value.detach().to(tensor)
        is_parameter = isinstance(tensor, nn.Parameter)
        setattr(module, attribute, nn.Parameter(value, requires_grad=False) if is_parameter else value)
        self._replaced.add(name)

    def restore(self) -> None:
        """Undoes every `replace`."""
        for name in self._replaced:
            module, attribute, tensor = self._originals[name]
            setattr(module, attribute, tensor)
        self._replaced = set()
