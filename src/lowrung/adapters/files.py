"""A saved adapter, read without running anything in it."""

import dataclasses
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lowrung.adapters import vocabulary
from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError, blaming
from lowrung.finetune import library_options
from lowrung.finetune.models import soundness

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before a module's name in a file."""

ROWS = ".token_adapter.trainable_tokens_delta"
"""What PEFT puts after the name of a matrix of which single rows are trained."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """An adapter as it was saved.

    Attributes:
        folder: its folder.
        config: PEFT's settings.
        tensors: by their names in the file: A of shape (rank, in), B of shape (out, rank), and whatever else was
            trained.
        unknown: the settings that the installed PEFT does not know and leaves out, where they say anything.
    """

    folder: Path
    config: LoraConfig
    tensors: Mapping[str, Tensor]
    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def read(folder: Path) -> Saved:
    """Reads an adapter, safetensors only; nothing in it can run.

    Raises:
        UsageError: when the folder holds no LoRA adapter, only a pickle, or a file that is damaged.
    """
    file = folder / "adapter_config.json"
    with blaming(f"The adapter in {folder}", "Copy or save it again."):
        values = _values(file)
        return Saved(folder, _config(file, values), _tensors(folder), _unknown(values))


def _values(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"An adapter must have an adapter_config.json, but {file.parent} has none.") from None
    except ValueError as error:
        raise UsageError(f"{file} must be JSON, but is not: {error}. Save the adapter again.") from None
    kind = values.get("peft_type") if isinstance(values, dict) else None
    if kind != "LORA":
        raise UsageError(f"{file} must be a LoRA adapter's, but its peft_type is {kind!r}.")
    return dict(values)


def _config(file: Path, values: Mapping[str, Any]) -> LoraConfig:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unexpected keyword arguments")  # `Saved.unknown` has them
            config: LoraConfig = LoraConfig.from_pretrained(str(file.parent))
        if problems := list(_type_problems(config, values)):
            raise ValueError(" ".join(problems).removesuffix("."))
        _check_numbers(config)
    except (TypeError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise UsageError(f"{file} must hold PEFT's settings, but: {error}. Save the adapter again.") from None
    return config


def _type_problems(config: LoraConfig, values: Mapping[str, Any]) -> Iterator[str]:
    """Which values have other types than PEFT's fields: PEFT takes them, and fails later or means something else."""
    judged = (
        "r",
        "lora_alpha",
        "init_lora_weights",
    )  # by other checks: an alpha may be a float, and inits have more names
    given = {
        field.name: values[field.name]
        for field in dataclasses.fields(LoraConfig)
        # PEFT has built nested settings from their values, which may hold more than it takes.
        if field.name in values
        and field.name not in judged
        and not dataclasses.is_dataclass(getattr(config, field.name))
    }
    return (problem.removeprefix("adapter.") for problem in library_options.problems(LoraConfig, given, {}, "adapter"))


def _unknown(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that PEFT has no field for, except those that are off: releases add and remove such."""
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    return {name: value for name, value in values.items() if name not in known and value}


def _check_numbers(config: LoraConfig) -> None:
    """Refuses ranks and alphas that are not numbers: PEFT accepts them, and fails later."""
    ranks = {"r": config.r, **(config.rank_pattern or {})}
    alphas = {"lora_alpha": config.lora_alpha, **(config.alpha_pattern or {})}
    for name, rank in ranks.items():
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"{name} must be a rank, a whole number of at least 1, but is {rank!r}")
    for name, alpha in alphas.items():
        if not isinstance(alpha, int | float):
            raise ValueError(f"{name} must be an alpha, a number, but is {alpha!r}")


def _tensors(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    if not file.is_file():
        rule = f"An adapter must have its weights in {WEIGHTS}, but {folder} has"
        if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")):
            raise UsageError(
                f"{rule} only a pickle ({', '.join(pickles)}), which can run any code when it is loaded. If you trust"
                " it, load it with PEFT and save it again (save_pretrained) as safetensors."
            )
        raise UsageError(f"{rule} none. Save it again, or name the folder that has them.")
    try:
        return _once(load_file(file))
    except SafetensorError as error:
        raise UsageError(f"{file} is damaged or was cut off ({error}). Copy or save it again.") from None


def _once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once: where the embedding has grown, PEFT saves a whole module under two inner names as well."""
    inner = re.compile(r"\.(modules_to_save|original_module)(?=\.\w+$)")
    return {
        name: tensor for name, tensor in tensors.items() if not inner.search(name) or inner.sub("", name) not in tensors
    }


def base_name(tensor: str) -> str:
    """The name of a tensor in the base, from its name in a file or in PEFT's model."""
    parts = tensor.removeprefix(PREFIX).split(".")
    return ".".join(part for part in parts if part not in ("token_adapter", "base_layer"))


def base_of(saved: Saved, path: str | None = None, *, trust_remote_code: bool = False) -> ModelConf:
    """The base at ``path``, or else the one that the adapter names, with the tokens that the adapter adds to it.

    Raises:
        UsageError: when neither names one.
    """
    named = path or saved.config.base_model_name_or_path
    if not named:
        raise UsageError(f"{saved.folder} does not name its base. Name it: --base PATH.")
    base = ModelConf(named, revision=None if path else saved.config.revision, trust_remote_code=trust_remote_code)
    if soundness.problems(base):  # whoever loads it reports them
        return base
    return dataclasses.replace(base, added_tokens=list(vocabulary.added(saved.folder, base)))


def is_finite(*tensors: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
