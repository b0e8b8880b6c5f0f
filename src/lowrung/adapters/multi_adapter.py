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

from lowrung.adapters import combine, compatibility, extras, files
from lowrung.adapters.base_tensors import Own
from lowrung.adapters.combine import Part
from lowrung.adapters.extras import Entry, Rows, module_of
from lowrung.adapters.files import Saved
from lowrung.errors import UsageError
from lowrung.finetune.models import pretrained
from lowrung.finetune.models.pretrained import Base


class Loaded:
    """A base model with any number of adapters, of which at most one is switched on.

    Whatever is done here, the base's weights are the same to the bit once it is undone: PEFT subtracts an update again,
    which leaves rounding behind, and writes an adapter's biases over the base's; here the base's own parameters step
    aside and come back. So adapters go beside each other that PEFT does not hold in one model: with biases, and such
    as train single tokens' rows beside such as do not.

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
        self._model: Any = pretrained.load_base(base, place or pretrained.device(), dtype=dtype)
        self._entries: dict[str, Entry] = {}
        self._made = 0
        self._own = Own(self._model)

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """What computes: the base, with the active adapter on it. For `generate.answers` and the like."""
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
            UsageError: when the name is taken, the file damaged or a pickle, or the adapter is another base's.
        """
        self._must_be_unmerged("load")
        self._must_be_new(name)
        saved = files.read(folder)
        compatibility.check(saved, self.base)
        key = self._add(saved)
        set_peft_model_state_dict(self._model, extras.low_rank(saved), adapter_name=key)
        self._entries[name] = Entry.of(saved, key, self.base, self._own)
        self.switch(self.active)

    def switch(self, name: str | None) -> None:
        """Switches one adapter on and all others off; None is the base alone.

        Raises:
            UsageError: when there is no such adapter, or one is merged.
        """
        self._must_be_unmerged("switch")
        entry = None if name is None else self._entry(name)
        self._own.put_back()
        self.active = name
        if not self._entries:
            return
        if entry is None:
            with _without_warnings():
                self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(entry.key, inference_mode=True)
            self._put_in(entry)
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
        for name, parameter in list(self._model.named_parameters()):
            if ".base_layer." in name:
                self._own.put(files.place(name), parameter.detach().clone())
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

        The method is for the low-rank updates. What else is trained (biases, whole modules, single rows) is the base's
        and each part's weight times what the part changed of it, whatever the method: W + Σ wᵢ (Wᵢ - W).

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
        parts = [self._part(part) for part in weights]
        if found := combine.problems(parts, weights, method=method, rank=rank, density=density):
            raise UsageError(found)
        key = self._combine_low_rank(weights, method, rank, density, seed)
        combined = [self._entry(part) for part in weights]
        sums = self._sums(weights)
        whole = {place: sums[place] for entry in combined for place in entry.whole}
        rows = {
            matrix: Rows(numbers, sums[matrix][numbers])
            for matrix, numbers in extras.trained_rows(combined).items()
            if matrix not in whole
        }
        config = dataclasses.replace(
            self._config(key),
            bias=parts[0].bias,  # type: ignore[arg-type]  # one of the literals, as it was read
            modules_to_save=sorted({name for entry in combined for name in entry.config.modules_to_save or ()}) or None,
            trainable_token_indices={module_of(matrix): list(each.numbers) for matrix, each in rows.items()} or None,
        )
        self._entries[name] = Entry(key, config, whole, rows)
        self.switch(self.active)

    def _combine_low_rank(
        self, weights: Mapping[str, float], method: str, rank: int | None, density: float | None, seed: int
    ) -> str:
        """The sum of the low-rank parts; returns PEFT's name of it."""
        key = self._new_key()
        keys = [self._entry(part).key for part in weights]
        settings = self._config(keys[0])
        # PEFT folds each part's scaling into the new factors and sets alpha to the rank, so that the new scaling is 1;
        # but it copies use_rslora from the first part, and then the scaling is sqrt(rank).
        self._model.peft_config[keys[0]] = dataclasses.replace(settings, use_rslora=False)
        try:
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(seed)
                self._model.add_weighted_adapter(
                    keys,
                    list(weights.values()),
                    key,
                    combination_type=method,
                    svd_rank=rank,
                    svd_full_matrices=False,  # the rest is cut off, and takes 0.8 GB for a layer of 14336 x 4096
                    density=density,
                )
        finally:
            self._model.peft_config[keys[0]] = settings
        self._lay_out_as_loaded(key)
        return key

    def _lay_out_as_loaded(self, key: str) -> None:
        """Makes an adapter's factors contiguous: a decomposition leaves views.

        A matrix product adds up in another order over a view than over the same numbers side by side, which is how they
        come back from a file. On CPUs without AVX-512 the logits then differed in their last bits.
        """
        for layer in self._model.modules():
            if isinstance(layer, LoraLayer):
                for factors in (layer.lora_A, layer.lora_B):
                    if key in factors:
                        weight: Any = factors[key].weight
                        weight.data = weight.data.contiguous()

    def _sums(self, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """W + Σ wᵢ (Wᵢ - W) in float32 of each of the base's own tensors that a part changes, by name."""
        sums: dict[str, Tensor] = {}
        active = self.active
        for part, weight in weights.items():
            self.switch(part)
            for place in self._own.replaced:
                original = self._own.original(place).float()
                sums[place] = sums.get(place, original) + weight * (self._own.present(place).float() - original)
        self.switch(active)
        return sums

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
        config = copy.deepcopy(entry.config)
        config.base_model_name_or_path, config.revision = self.base.origin
        config.inference_mode = True
        low_rank = get_peft_model_state_dict(self._model, adapter_name=entry.key, save_embedding_layers=False)
        state = entry.tensors(low_rank)
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
            entry.config.use_dora,
            entry.config.bias if any(place.endswith(".bias") for place in entry.whole) else "none",
            frozenset(int(layer.r[entry.key]) for layer in layers),
            min(min(layer.in_features, layer.out_features) for layer in layers),
            frozenset(module_of(place) for place in entry.whole),
            frozenset(map(module_of, self._own.tied(entry.rows))),
        )

    def _add(self, saved: Saved) -> str:
        """Makes room for an adapter's low-rank part; returns PEFT's name of it."""
        config = dataclasses.replace(
            saved.config,
            inference_mode=True,
            init_lora_weights=True,  # what is random is written over
            # The rest is put there by `switch`: PEFT knows one adapter with biases at a time, and holds adapters that
            # train single rows only beside others that do.
            bias="none",
            modules_to_save=None,
            trainable_token_indices=None,
            # What the file holds, by whole names: PEFT does not combine names with a regular expression, nor some
            # layers with others.
            target_modules=[layer.name for layer in files.layers(saved)],
            exclude_modules=None,
            layers_to_transform=None,
            layers_pattern=None,
        )
        key = self._new_key()
        if self._entries:
            self._model.add_adapter(key, config)
        else:
            self._model = PeftModel(self._model, config, adapter_name=key)
        return key

    def _new_key(self) -> str:
        self._made += 1
        return f"adapter_{self._made}"

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            loaded = ", ".join(self._entries) or "none"
            raise UsageError(f"An adapter must have been loaded to be used, but {name} has not. Loaded: {loaded}.")
        return self._entries[name]

    def _must_be_new(self, name: str) -> None:
        if name in self._entries:
            raise UsageError(f"An adapter's name must be new, but {name} is loaded. Take another, or delete that one.")

    def _must_be_unmerged(self, wish: str) -> None:
        if self.is_merged:
            raise UsageError(f"No adapter may be merged to {wish}, but {self.active} is. Unmerge it first.")

    def _put_in(self, entry: Entry) -> None:
        """Puts what an adapter has beside low-rank updates in the place of the base's own."""
        for place, value in entry.whole.items():
            for each in [place] if entry.is_apart(place) else self._own.sharing(place):
                self._own.put(each, value)
        for matrix, rows in entry.rows.items():
            held = self._own.present(matrix)
            numbers = torch.tensor(rows.numbers, device=held.device)
            filled = held.index_copy(0, numbers, rows.values.to(held))
            for each in self._own.sharing(matrix):
                self._own.put(each, filled)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Without what PEFT says of biases, of the adapter that it chose, and of layers that the adapter left out.

    Here biases are put back, the adapter is chosen again, and such layers are nothing to speak of.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
