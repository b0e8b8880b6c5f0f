"""A saved adapter: read without running anything in it, and measured."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lowrung.adapters import vocabulary
from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError
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
    """

    folder: Path
    config: LoraConfig
    tensors: Mapping[str, Tensor]

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclasses.dataclass(frozen=True)
class Layer:
    """An adapter's update of one layer.

    Attributes:
        name: the layer's in the base.
        rank: r, as the file has it.
        scaling: alpha / r, or alpha / sqrt(r) with rsLoRA.
        shape: (out, in) of the update.
        norm: Frobenius norm of the update scaling·B·A; with DoRA the update changes the direction of the weights.
    """

    name: str
    rank: int
    scaling: float
    shape: tuple[int, int]
    norm: float


def read(folder: Path) -> Saved:
    """Reads an adapter, safetensors only; nothing in it can run.

    Raises:
        UsageError: when the folder holds no LoRA adapter, only a pickle, or a file that is damaged.
    """
    return Saved(folder, _config(folder / "adapter_config.json"), _tensors(folder))


def _config(file: Path) -> LoraConfig:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"An adapter must have an adapter_config.json, but {file.parent} has none.") from None
    except ValueError as error:
        raise UsageError(f"{file} must be JSON, but is not: {error}. Save the adapter again.") from None
    kind = values.get("peft_type") if isinstance(values, dict) else None
    if kind != "LORA":
        raise UsageError(f"{file} must be a LoRA adapter's, but its peft_type is {kind!r}.")
    try:
        config: LoraConfig = LoraConfig.from_pretrained(str(file.parent))
        _check_numbers(config)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{file} must hold PEFT's settings, but: {error}. Save the adapter again.") from None
    return config


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
    return tensor.removeprefix(PREFIX).replace(".token_adapter.", ".").replace(".base_layer.", ".")


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


# -- measured ----------------------------------------------------------------------------------------------------------


def layers(saved: Saved) -> list[Layer]:
    """The layers that have both factors, in the file's order."""
    found = []
    for name, (a, b) in _factors(saved.tensors).items():
        scaling = _alpha(saved.config, name) / _divisor(saved.config, a.shape[0])
        found.append(Layer(name, a.shape[0], scaling, (b.shape[0], a.shape[1]), abs(scaling) * _product_norm(a, b)))
    return found


def _factors(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A of shape (rank, in) and B of shape (out, rank) by layer, where they have these shapes."""
    pairs = {}
    for name, a in tensors.items():
        for left, right, end in (("lora_A", "lora_B", ".weight"), ("lora_embedding_A", "lora_embedding_B", "")):
            layer = name.removeprefix(PREFIX).removesuffix(f".{left}{end}")
            b = tensors.get(f"{PREFIX}{layer}.{right}{end}")
            if name.endswith(f".{left}{end}") and b is not None and a.dim() == b.dim() == 2:
                pairs[layer] = (a, b)
    return {layer: (a, b) for layer, (a, b) in pairs.items() if a.shape[0] == b.shape[1]}


def _alpha(config: LoraConfig, layer: str) -> float:
    pattern = config.alpha_pattern or {}
    return float(pattern.get(get_pattern_key(list(pattern), layer), config.lora_alpha))


def rank(config: LoraConfig, layer: str) -> int:
    """The rank that an adapter's settings give a layer."""
    pattern = config.rank_pattern or {}
    return int(pattern.get(get_pattern_key(list(pattern), layer), config.r))


def _divisor(config: LoraConfig, rank: int) -> float:
    return math.sqrt(rank) if config.use_rslora else rank


def _product_norm(a: Tensor, b: Tensor) -> float:
    """The Frobenius norm of B·A from products of shape (rank, rank): ‖BA‖² = tr(BᵀB·AAᵀ)."""
    a, b = a.double(), b.double()
    return math.sqrt(max(((b.T @ b) * (a @ a.T)).sum().item(), 0.0)) if is_finite(a, b) else math.nan


def is_finite(*tensors: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
