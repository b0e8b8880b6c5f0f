"""Several adapters beside each other on one base in memory: load, switch, merge, unmerge, combine, delete, unload."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.adapters import combine, compatibility, extras, files, injected, vocabulary
from lowrung.adapters.base_tensors import BaseTensors
from lowrung.adapters.combine import Method, Part
from lowrung.adapters.extras import LoadedAdapter
from lowrung.adapters.files import Saved
from lowrung.adapters.injected import without_warnings
from lowrung.adapters.options import Use
from lowrung.config.schema import ModelConf
from lowrung.errors import LowrungError, UsageError, blaming
from lowrung.finetune.models import pretrained


class MultiAdapter:
    """A base model with any number of adapters, of which at most one is active.

    The base is loaded once. Whatever is done here, its weights are the same to the bit once it is undone. PEFT alone
    would not keep them so: it unmerges by subtraction, which leaves rounding behind, and it writes an adapter's biases
    over the base's. Here the tensors of the base step aside and come back. So one model also holds adapters that PEFT
    does not hold together: several with biases, and some that train single rows of a matrix beside some that do not.

    Example:
        >>> adapters = lowrung.load_adapters("my-sweep/0", "my-sweep/1")
        >>> adapters.switch("my-sweep/0")
        >>> inputs = adapters.tokenizer("Write 47 in words.", return_tensors="pt")
        >>> adapters.model.generate(**inputs.to(adapters.model.device))

    Attributes:
        base: the base and how it was loaded.
        active: the name of the active adapter; None is the base alone.
        is_merged: whether the active adapter's update is added to the base's weights at present.
    """

    def __init__(self, base: ModelConf, device: torch.device | None = None) -> None:
        """Loads a base.

        Args:
            base: which, and how.
            device: where to; None is the first GPU, or the CPU where there is none.

        Raises:
            UsageError: when there is no such base.
        """
        self.base = base
        self.active: str | None = None
        self.is_merged = False
        with blaming(f"The base, {base.path},"):
            self._model: Any = pretrained.load_base(base, device or pretrained.device())
        self._adapters: dict[str, LoadedAdapter] = {}
        self._made = 0
        self._base_tensors = BaseTensors(self._model)

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """The base with the active adapter on it, in evaluation mode. Another adapter may make it another object."""
        return self._model  # type: ignore[no-any-return]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that was saved beside the active adapter; the base's where there is none."""
        folder = None if self.active is None else self._adapter(self.active).folder
        return vocabulary.tokenizer_of(self.base, folder)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the adapters, in the order in which they were loaded."""
        return tuple(self._adapters)

    def rank(self, name: str) -> int:
        """The rank of an adapter's settings; layers may have others, by its pattern.

        Raises:
            UsageError: when there is no such adapter.
        """
        return int(self._config(self._adapter(name).key).r)

    def load(self, name: str, folder: Path | str) -> None:
        """Reads an adapter from the disk and adds it to the others; which one is active stays.

        Args:
            name: what to call it here.
            folder: where it was saved.

        Raises:
            UsageError: when the name is taken, the file is damaged or a pickle, or the adapter is another base's.
        """
        self._must_be_unmerged("load")
        self._must_be_new(name)
        saved = files.read(Path(folder))
        compatibility.check(saved, self.base, Use.SHARE)
        self._check_experts(name, saved)
        with blaming(f"The adapter in {saved.folder}"):
            key = self._add(saved)
            self._fill(key, saved)
            self._adapters[name] = LoadedAdapter.of(saved, key, self.base, self._base_tensors)
        self.switch(self.active)

    def switch(self, name: str | None) -> None:
        """Makes an adapter the active one; None is the base alone.

        Raises:
            UsageError: when there is no such adapter, or one is merged.
        """
        self._must_be_unmerged("switch")
        adapter = None if name is None else self._adapter(name)
        self._base_tensors.restore()
        self.active = name
        if not self._adapters:
            return
        if adapter is None:
            with without_warnings():
                self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(adapter.key, inference_mode=True)
            adapter.replace_in(self._base_tensors)
        self._model.eval()

    def merge(self) -> None:
        """Adds the active adapter's update to the base's weights until `unmerge`.

        Passes are then as fast as the base's. It takes memory for a copy of the adapted weights. `lowrung.merge` writes
        a merged model to the disk.

        Raises:
            UsageError: when no adapter is active, one is merged, or the base is quantised.
        """
        self._must_be_unmerged("merge")
        if self.active is None:
            raise UsageError("An adapter must be active to be merged, but none is. Switch to one.")
        compatibility.check_biases(self._adapter(self.active).config, self.base)
        if self.base.quantization != "none":
            raise UsageError(
                f"merge needs a base that is not quantised, but model.quantization is {self.base.quantization}: the"
                " merged weights would be rounded again. Load the base without it."
            )
        for name, parameter in list(self._model.named_parameters()):
            if ".base_layer." in name and ".lora_" not in name:  # factors of experts lie inside of each other
                self._base_tensors.replace(files.base_name(name), parameter.detach().clone())
        self._model.merge_adapter([self._adapter(self.active).key])
        self.is_merged = True

    def unmerge(self) -> None:
        """Undoes `merge`; the adapter stays active.

        Raises:
            UsageError: when none is merged.
        """
        if not self.is_merged:
            raise UsageError("An adapter must be merged to be unmerged, but none is.")
        with without_warnings():
            self._model.unmerge_adapter()
        self.is_merged = False
        self.switch(self.active)

    def combine(
        self,
        name: str,
        weights: Mapping[str, float],
        *,
        method: str = "svd",
        rank: int | None = None,
        density: float | None = None,
        seed: int = 0,
    ) -> None:
        """Makes a new adapter of loaded ones, which stay; so does the active one.

        The method is for the low-rank updates. All else that was trained (biases, whole modules, single rows) becomes
        W + Σ wᵢ (Wᵢ - W), whatever the method: the base's tensor and each part's weight times its change of it.

        Args:
            name: what to call the new one here.
            weights: what the update of each part is multiplied by, by the part's name.
            method: one of `lowrung.adapters.combine.METHODS`, whose module says what they do.
            rank: the new one's, for methods that end in ``svd``; None is the parts' highest.
            density: the share of numbers that is kept, for methods that prune.
            seed: of the numbers that DARE drops.

        Raises:
            UsageError: when a part is not loaded, or they cannot be combined so.
        """
        self._must_be_unmerged("combine")
        self._must_be_new(name)
        parts = [
            Part.of(part, weight, self._adapter(part), self._model, self._base_tensors)
            for part, weight in weights.items()
        ]
        chosen = Method(method, rank, density, seed)
        if found := combine.problems(parts, chosen):
            raise UsageError(found)
        with blaming(f"The sum of {' and '.join(weights)} (method {method})"):
            self._adapters[name] = combine.combine(parts, chosen, self._new_key(), self._model, self._base_tensors)
        self.switch(self.active)

    def delete(self, name: str) -> None:
        """Removes an adapter from memory; its files stay.

        Raises:
            UsageError: when there is no such adapter, or one is merged.
        """
        self._must_be_unmerged("delete")
        key = self._adapter(name).key
        self.switch(None if self.active == name else self.active)
        del self._adapters[name]
        if self._adapters:
            with without_warnings():
                self._model.delete_adapter(key)
            self.switch(self.active)  # PEFT switches to another one
        else:
            self._model = self._model.unload()

    def unload(self) -> PreTrainedModel:
        """Removes all adapters from memory, a merged one too; returns the base as it was."""
        if self.is_merged:
            self.unmerge()
        for name in self.names:
            self.delete(name)
        base: PreTrainedModel = self._model
        return base

    def save(self, name: str, folder: Path | str) -> None:
        """Saves an adapter (safetensors) in a folder, which is made, as PEFT and `load` read it.

        Raises:
            UsageError: when there is no such adapter.
        """
        adapter = self._adapter(name)
        config = copy.deepcopy(adapter.config)
        config.base_model_name_or_path, config.revision = pretrained.origin_of(self.base)
        config.inference_mode = True
        with without_warnings():
            low_rank = get_peft_model_state_dict(self._model, adapter_name=adapter.key, save_embedding_layers=False)
        state = adapter.tensors(low_rank)
        folder = Path(folder)
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

    def _add(self, saved: Saved) -> str:
        """Adds an adapter without its weights to PEFT's model, low-rank part only; returns PEFT's name of it."""
        slots = injected.slots(injected.model(saved.config, self.base))
        config = extras.low_rank_config(saved, slots.values())
        key = self._new_key()
        with without_warnings():
            if self._adapters:
                self._model.add_adapter(key, config)
            else:
                self._model = PeftModel(self._model, config, adapter_name=key)
        return key

    def _fill(self, key: str, saved: Saved) -> None:
        """Gives PEFT's model the low-rank tensors of a file: all that it has, and all that the model needs."""
        with without_warnings():
            done: Any = set_peft_model_state_dict(self._model, extras.low_rank_tensors(saved), adapter_name=key)
        if left := [*done.unexpected_keys, *(name for name in done.missing_keys if f".{key}" in name)]:
            raise LowrungError(
                f"{saved.folder} must fill its low-rank layers exactly, but does not: {', '.join(left)}."
            )

    def _check_experts(self, name: str, saved: Saved) -> None:
        """Refuses adapters of other parameters than those of the adapters that are loaded: PEFT nests their layers."""
        wanted = set(saved.config.target_parameters or ())
        for other, adapter in self._adapters.items():
            known = set(adapter.config.target_parameters or ())
            if wanted and known and wanted != known:
                raise UsageError(
                    f"target_parameters must be the same in all adapters on one base, but {name} has"
                    f" {', '.join(sorted(wanted))}, and {other} has {', '.join(sorted(known))}. Load them apart."
                )

    def _new_key(self) -> str:
        self._made += 1
        return f"adapter_{self._made}"

    def _adapter(self, name: str) -> LoadedAdapter:
        if name not in self._adapters:
            loaded = ", ".join(self._adapters) or "none"
            raise UsageError(f"An adapter must be loaded to be used, but {name} is not. Loaded: {loaded}.")
        return self._adapters[name]

    def _must_be_new(self, name: str) -> None:
        if name in self._adapters:
            raise UsageError(f"An adapter's name must be new, but {name} is loaded. Take another, or delete that one.")

    def _must_be_unmerged(self, action: str) -> None:
        if self.is_merged:
            raise UsageError(f"{action} needs an unmerged base, but {self.active} is merged. Unmerge it first.")
