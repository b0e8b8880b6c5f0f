"""A base's own tensors, which step aside for what an adapter has in their place, and come back the same to the bit."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from torch import Tensor, nn


class _Spot(NamedTuple):
    """Where a tensor belongs, whatever PEFT wraps around that module, and the tensor itself."""

    module: nn.Module
    name: str
    tensor: Tensor


class Own:
    """The parameters and buffers of a base, by their names; tied ones by each of theirs.

    Args:
        model: the base, before any adapter is on it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._spots = {
            f"{path}.{name}" if path else name: _Spot(module, name, tensor)
            for path, module in model.named_modules(remove_duplicate=False)
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None
        }
        self._replaced: set[str] = set()

    def __contains__(self, place: object) -> bool:
        return place in self._spots

    @property
    def replaced(self) -> Collection[str]:
        """The places that hold something else at present."""
        return frozenset(self._replaced)

    def original(self, place: str) -> Tensor:
        """What belongs in a place."""
        return self._spots[place].tensor.detach()

    def present(self, place: str) -> Tensor:
        """What is in a place."""
        module, name, _ = self._spots[place]
        value: Tensor = getattr(module, name)
        return value.detach()

    def sharing(self, place: str) -> list[str]:
        """This place and those that hold the same tensor: a head that is tied to its embedding."""
        shared = self._spots[place].tensor
        return [name for name, spot in self._spots.items() if spot.tensor is shared]

    def tied(self, places: Iterable[str]) -> frozenset[str]:
        """Of these places and those that hold the same tensors, the ones of which several hold one."""
        groups = (self.sharing(place) for place in places)
        return frozenset(place for group in groups if len(group) > 1 for place in group)

    def put(self, place: str, value: Tensor) -> None:
        """Puts another tensor of the same kind in a place."""
        module, name, tensor = self._spots[place]
        value = value.detach().to(tensor)
        is_parameter = isinstance(tensor, nn.Parameter)
        setattr(module, name, nn.Parameter(value, requires_grad=False) if is_parameter else value)
        self._replaced.add(place)

    def put_back(self) -> None:
        """Undoes every `put`."""
        for place in self._replaced:
            module, name, tensor = self._spots[place]
            setattr(module, name, tensor)
        self._replaced = set()
