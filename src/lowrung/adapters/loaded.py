"""One base in memory with adapters beside each other: load, switch, merge, unmerge, combine, delete, unload."""

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from lowrung.adapters import combine, vocabulary
from lowrung.adapters import saved as files
from lowrung.adapters.combine import Part
from lowrung.adapters.saved import Saved
from lowrung.errors import UsageError
from lowrung.finetune import model as models
from lowrung.finetune.model import Base


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An adapter in memory.

    Attributes:
        key: PEFT's name of it, which may hold no dots.
        bias: PEFT's setting, as it was read.
        own: what it brings for the base's own parameters, by name: trained biases, an embedding.
    """

    key: str
    bias: str = "none"
    own: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


class Loaded:
    """A base model with any number of adapters, of which at most one is switched on.

    Whatever is done here, the base's weights are the same to the bit once it is undone: PEFT subtracts an update again,
    which leaves rounding behind, and writes an adapter's biases over the base's; here the base's own are kept and put
    back.

    Attributes:
        base: the base and how it was loaded.
        active: the adapter that is switched on; None is the base alone.
        is_merged: whether the active adapter's update is added to the base's weights at present.
    """

    def __init__(self, base: Base, place: torch.device | None = None, *, dtype: torch.dtype | None = None) -> None:
        """Loads a base, on the run's device unless another is given.

        Args:
            base: which, and how.
            place: the device.
            dtype: instead of the base's.
        """
        self.base = base
        self.active: str | None = None
        self.is_merged = False
        self._model: Any = models.load_base(base, place or models.device(), dtype=dtype)
        self._entries: dict[str, _Entry] = {}
        self._made = 0
        self._kept: dict[str, Tensor] = {}

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """What computes: the base, with the active adapter on it. For `lowrung.finetune.generate` and the like."""
        return self._model  # type: ignore[no-any-return]

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters, in the order in which they came."""
        return tuple(self._entries)

    def rank(self, name: str) -> int:
        """The rank of an adapter's settings; layers may have others, by its pattern.

        Raises:
            UsageError: when there is no such adapter.
        """
        return int(self._config(self._entry(name).key).r)

    def load(self, name: str, folder: Path) -> None:
        """Reads an adapter from the disk and puts it beside the others, switched off.

        Args:
            name: what it is called here.
            folder: where it was saved.

        Raises:
            UsageError: when the name is taken, the file damaged or a pickle, the adapter is another base's, or it and
                those that are loaded do not train rows of the same matrices.
        """
        self._must_be_unmerged("load")
        self._must_be_new(name)
        saved = files.read(folder)
        files.check(saved, self.base)
        self._must_go_with_the_others(saved)
        key = self._add(saved.config)
        parameters = dict(self._model.named_parameters())
        # Trained biases, and an embedding saved with them, are the base's own parameters: put there by `switch` alone.
        own = {tensor: value for tensor, value in saved.tensors.items() if tensor in parameters}
        others = {tensor: value for tensor, value in saved.tensors.items() if tensor not in own}
        set_peft_model_state_dict(self._model, others, adapter_name=key)
        self._entries[name] = _Entry(key, saved.config.bias, own)
        self.switch(self.active)

    def switch(self, name: str | None) -> None:
        """Switches one adapter on and all others off; None is the base alone.

        Raises:
            UsageError: when there is no such adapter, or one is merged.
        """
        self._must_be_unmerged("switch")
        entry = None if name is None else self._entry(name)
        self._put_back()
        self.active = name
        if not self._entries:
            return
        if entry is None:
            with _without_warnings():
                self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(entry.key, inference_mode=True)
            self._keep_then_put(entry.own)
        self._model.eval()

    def merge(self) -> None:
        """Adds the active adapter's update to the base's weights: passes cost what the base's cost, until `unmerge`.

        It takes memory for a copy of the adapted weights.

        Raises:
            UsageError: when no adapter is active, one is merged, or the base is quantised.
        """
        self._must_be_unmerged("merge")
        if self.active is None:
            raise UsageError("An adapter must be switched on to be merged, but none is. Switch to one.")
        if self.base.quantization != "none":
            raise UsageError(
                f"A base must not be quantised to be merged into, but is {self.base.quantization}: its weights would be"
                " rounded anew. Load it without model.quantization."
            )
        adapted = {n: p for n, p in self._model.named_parameters() if ".base_layer." in n}
        self._keep_then_put(adapted)
        self._model.merge_adapter([self._entry(self.active).key])
        self.is_merged = True

    def unmerge(self) -> None:
        """Undoes `merge`; the adapter stays switched on.

        Raises:
            UsageError: when none is merged.
        """
        if not self.is_merged:
            raise UsageError("An adapter must be merged to be unmerged, but none is.")
        with _without_warnings():
            self._model.unmerge_adapter()
        self.is_merged = False
        self.switch(self.active)

    def combine(
        self,
        name: str,
        weights: Mapping[str, float],
        *,
        method: str,
        rank: int | None = None,
        density: float | None = None,
        seed: int = 0,
    ) -> None:
        """Makes a new adapter of loaded ones, switched off; the parts stay.

        Args:
            name: what the new one is called here.
            weights: of each part, by its name; the update of a part counts so many times.
            method: one of `lowrung.adapters.combine.METHODS`, which says what they do.
            rank: the new one's, for methods that end in ``svd``; None is the parts' highest.
            density: the share of numbers that is kept, for methods that prune.
            seed: of what DARE drops.

        Raises:
            UsageError: when a part is not loaded, or they cannot be combined so.
        """
        self._must_be_unmerged("combine")
        self._must_be_new(name)
        keys = {part: self._entry(part).key for part in weights}
        parts = [self._part(part) for part in weights]
        if found := combine.problems(parts, weights, method=method, rank=rank, density=density):
            raise UsageError(found)
        key = self._new_key()
        first = next(iter(keys.values()))
        settings = self._config(first)
        # PEFT folds each part's scaling into the new factors and sets alpha to the rank, so that the new scaling is 1;
        # but it copies use_rslora from the first part, and then the scaling is sqrt(rank).
        self._model.peft_config[first] = dataclasses.replace(settings, use_rslora=False)
        try:
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(seed)
                self._model.add_weighted_adapter(
                    list(keys.values()),
                    list(weights.values()),
                    key,
                    combination_type=method,
                    svd_rank=rank,
                    density=density,
                )
        finally:
            self._model.peft_config[first] = settings
        self._entries[name] = _Entry(key)
        self.switch(self.active)

    def delete(self, name: str) -> None:
        """Takes an adapter out of memory; the files stay.

        Raises:
            UsageError: when there is no such adapter, or one is merged.
        """
        self._must_be_unmerged("delete")
        key = self._entry(name).key
        self.switch(None if self.active == name else self.active)
        del self._entries[name]
        if self._entries:
            with _without_warnings():
                self._model.delete_adapter(key)
            self.switch(self.active)  # PEFT switches to another one
        else:
            self._model = self._model.unload()

    def unload(self) -> PreTrainedModel:
        """Takes all adapters out of memory, a merged one too; returns the base as it was."""
        if self.is_merged:
            self.unmerge()
        for name in self.names:
            self.delete(name)
        base: PreTrainedModel = self._model
        return base

    def save(self, name: str, folder: Path) -> None:
        """Saves an adapter (safetensors), as PEFT and `load` read it; the folder is made.

        Raises:
            UsageError: when there is no such adapter.
        """
        entry = self._entry(name)
        config = copy.deepcopy(self._config(entry.key))
        config.base_model_name_or_path, config.revision = self.base.origin
        config.bias = entry.bias  # type: ignore[assignment]  # as it was read
        state = get_peft_model_state_dict(self._model, adapter_name=entry.key, save_embedding_layers=False)
        parameters = dict(self._model.named_parameters())
        state = {tensor: value for tensor, value in state.items() if tensor not in parameters} | dict(entry.own)
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        save_file(
            {n: t.detach().cpu().contiguous() for n, t in state.items()}, folder / files.WEIGHTS, {"format": "pt"}
        )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _config(self, key: str) -> LoraConfig:
        config = self._model.peft_config[key]
        assert isinstance(config, LoraConfig)
        return config

    def _part(self, name: str) -> Part:
        entry = self._entry(name)
        layers: list[Any] = [m for m in self._model.modules() if isinstance(m, LoraLayer) and entry.key in m.r]
        return Part(
            name,
            self._config(entry.key),
            frozenset(int(layer.r[entry.key]) for layer in layers),
            min(min(layer.in_features, layer.out_features) for layer in layers),
            bool(entry.own),
        )

    def _add(self, config: LoraConfig) -> str:
        """Makes room for an adapter of these settings; returns PEFT's name of it."""
        config = copy.deepcopy(config)
        config.inference_mode = True
        config.init_lora_weights = True  # what is random is written over
        config.bias = "none"  # biases are put there by `switch`; PEFT knows one adapter with biases at a time
        key = self._new_key()
        if self._entries:
            self._model.add_adapter(key, config)
        else:
            self._model = PeftModel(self._model, config, adapter_name=key)
        return key

    def _new_key(self) -> str:
        self._made += 1
        return f"adapter_{self._made}"

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            loaded = ", ".join(self._entries) or "none"
            raise UsageError(f"An adapter must have been loaded to be used, but {name} has not. Loaded: {loaded}.")
        return self._entries[name]

    def _must_be_new(self, name: str) -> None:
        if name in self._entries:
            raise UsageError(f"An adapter's name must be new, but {name} is loaded. Take another, or delete that one.")

    def _must_go_with_the_others(self, saved: Saved) -> None:
        mine = vocabulary.matrices_in_rows(saved.config, self.base)
        for name, entry in self._entries.items():
            if apart := mine ^ vocabulary.matrices_in_rows(self._config(entry.key), self.base):
                raise UsageError(
                    f"{saved.folder} and {name} cannot be on one base together: only one of them trains single rows of"
                    f" {', '.join(sorted(apart))}. Load each on a base of its own."
                )

    def _must_be_unmerged(self, wish: str) -> None:
        if self.is_merged:
            raise UsageError(f"No adapter may be merged to {wish}, but {self.active} is. Unmerge it first.")

    def _keep_then_put(self, values: Mapping[str, Tensor]) -> None:
        """Writes values over the base's own parameters, whose present ones are kept for `_put_back`."""
        parameters = dict(self._model.named_parameters())
        for name, value in values.items():
            self._kept.setdefault(name, parameters[name].detach().clone())
            parameters[name].data.copy_(value.data)

    def _put_back(self) -> None:
        parameters = dict(self._model.named_parameters())
        for name, value in self._kept.items():
            parameters[name].data.copy_(value)
        self._kept = {}


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Without what PEFT says of biases, of the adapter that it chose, and of layers that the adapter left out.

    Here biases are put back, the adapter is chosen again, and such layers are nothing to speak of.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
