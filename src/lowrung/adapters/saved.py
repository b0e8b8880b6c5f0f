"""A saved adapter: read with care, measured, and held against its base."""

import copy
import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lowrung.adapters import vocabulary
from lowrung.errors import UsageError
from lowrung.finetune import model as models
from lowrung.finetune import soundness
from lowrung.finetune.model import Base

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before a module's name in a file."""

ROWS = ".token_adapter.trainable_tokens_delta"
"""What PEFT puts after the name of a matrix of which single rows are trained."""

MOVES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Inits that change the base's weights when PEFT loads an adapter that names them."""

OTHER_BASE = "Was it trained on another base? Name that: --base PATH."

SHOWN = 3
"""How many tensors a message names."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """An adapter as it lies on the disk.

    Attributes:
        folder: where.
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
    """What an adapter does to one layer.

    Attributes:
        name: the layer's in the base.
        rank: r, as the file has it.
        scaling: alpha / r, or alpha / sqrt(r) with rsLoRA.
        shape: (out, in) of the update.
        norm: Frobenius norm of the update scaling·B·A, of which DoRA makes a change of direction.
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
    """PEFT takes anything for them, and fails where it computes with it."""
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
                " it, load it with PEFT and save it again (save_pretrained), which writes safetensors."
            )
        raise UsageError(f"{rule} none. Save it again, or name the folder that has them.")
    try:
        return _once(load_file(file))
    except SafetensorError as error:
        raise UsageError(f"{file} is damaged or was cut off ({error}). Copy or save it again.") from None


def _once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the inner names by which PEFT saves a whole module twice more, where the embedding has grown."""
    inner = re.compile(r"\.(modules_to_save|original_module)(?=\.\w+$)")
    return {
        name: tensor for name, tensor in tensors.items() if not inner.search(name) or inner.sub("", name) not in tensors
    }


def place(tensor: str) -> str:
    """The base's name of one of its own tensors, from its name in a file or in PEFT's model."""
    return tensor.removeprefix(PREFIX).replace(".token_adapter.", ".").replace(".base_layer.", ".")


def base_of(saved: Saved, path: str | None = None, *, trust_remote_code: bool = False) -> Base:
    """The base that an adapter names, or the one that is named here, with the tokens that the adapter adds to it.

    Raises:
        UsageError: when neither names one.
    """
    named = path or saved.config.base_model_name_or_path
    if not named:
        raise UsageError(f"{saved.folder} does not name its base. Name it: --base PATH.")
    base = Base(named, revision=None if path else saved.config.revision, trust_remote_code=trust_remote_code)
    if soundness.problems(base):  # told by whoever uses it
        return base
    return dataclasses.replace(base, added_tokens=vocabulary.added(saved.folder, base))


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


def _rank(config: LoraConfig, layer: str) -> int:
    pattern = config.rank_pattern or {}
    return int(pattern.get(get_pattern_key(list(pattern), layer), config.r))


def _divisor(config: LoraConfig, rank: int) -> float:
    return math.sqrt(rank) if config.use_rslora else rank


def _product_norm(a: Tensor, b: Tensor) -> float:
    """The Frobenius norm of B·A from products of shape (rank, rank): ‖BA‖² = tr(BᵀB·AAᵀ)."""
    a, b = a.double(), b.double()
    return math.sqrt(max(((b.T @ b) * (a @ a.T)).sum().item(), 0.0)) if _is_finite(a, b) else math.nan


def _is_finite(*tensors: Tensor) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


# -- what is wrong -----------------------------------------------------------------------------------------------------


def problems(saved: Saved, base: Base) -> list[str]:
    """Why an adapter cannot be what was trained on a base, in words; no weights of the base are loaded."""
    return [*_own_problems(saved), *_base_problems(saved, base)]


def check(saved: Saved, base: Base) -> None:
    """Refuses an adapter with `problems`.

    Raises:
        UsageError: with all of them.
    """
    if found := problems(saved, base):
        raise UsageError([f"{saved.folder}: {problem}" for problem in found])


def _own_problems(saved: Saved) -> Iterator[str]:
    config = saved.config
    if config.task_type not in (None, "CAUSAL_LM"):
        yield f"task_type must be CAUSAL_LM, a model that continues text, but is {config.task_type}."
    if str(config.init_lora_weights).startswith(MOVES_BASE):
        yield (
            f"init_lora_weights must not change the base when the adapter is loaded, but is {config.init_lora_weights}."
            " Save it converted (path_initial_model_for_weight_conversion), as lowrung does."
        )
    if wrong := [name for name, tensor in saved.tensors.items() if not _is_finite(tensor)]:
        yield f"every number must be finite, but {_some(wrong)} hold NaN or infinity. Train again at a lower rate."
    found = layers(saved)
    if wrong := [
        f"{layer.name} ({layer.rank}, config {_rank(config, layer.name)})"
        for layer in found
        if layer.rank != _rank(config, layer.name)
    ]:
        yield f"ranks must be those of adapter_config.json, but are not in {_some(wrong)}: the scaling would be wrong."
    if found and all(layer.norm == 0 for layer in found) and len(saved.tensors) == 2 * len(found):
        yield "an adapter must change something, but every update is zero: it was never trained."


def base_problems(base: Base) -> list[str]:
    """What stands in the way of using the base that an adapter, its run, or ``--base`` names."""
    try:
        _ = base.folder
    except UsageError as error:
        return [f"{problem} Is the base elsewhere? Name that: --base PATH." for problem in error.problems]
    return soundness.problems(base)


def _base_problems(saved: Saved, base: Base) -> list[str]:
    if found := base_problems(base):
        return found
    own_rows = {place(name): len(tensor) for name, tensor in saved.tensors.items() if tensor.dim()}
    if found := list(vocabulary.problems(saved.folder, saved.config, own_rows, base)):
        return found
    try:
        needed, own = _needed(saved.config, base)
    except ValueError as error:
        there = {name for name, _ in models.skeleton(base).named_modules()}
        absent = [layer.name for layer in layers(saved) if layer.name not in there]
        reason = f"{base.path} has no {_some(absent)}" if absent else str(error).splitlines()[0]
        return [f"it must fit its base, but {reason}. {OTHER_BASE}"]
    given = {name: tuple(tensor.shape) for name, tensor in saved.tensors.items()}
    shapes = {name: needed.get(name, own.get(place(name))) for name in given}
    findings = (
        ("needs tensors that the file lacks", [name for name in needed if name not in given]),
        ("knows no such place as", [name for name, shape in shapes.items() if shape is None]),
        (
            "has other dimensions at",
            [
                f"{name} {given[name]}, where it needs {shape}"
                for name, shape in shapes.items()
                if shape not in (None, given[name])
            ],
        ),
    )
    return [
        f"it must fit its base, but {base.path} {what}: {_some(names)}. {OTHER_BASE}"
        for what, names in findings
        if names
    ]


def _needed(config: LoraConfig, base: Base) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """The shapes of an adapter of these settings by their names in a file, and of the base's own parameters by theirs.

    A file may hold the latter too, such as trained biases or an embedding that has grown.
    """
    config = copy.deepcopy(config)
    config.init_lora_weights = True
    config.inference_mode = True
    skeleton: Any = models.skeleton(base)
    own = {name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters(remove_duplicate=False)}
    adapted = PeftModel(skeleton, config)
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}, own


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(name.removeprefix(PREFIX) for name in names[:SHOWN])
    return listed if len(names) <= SHOWN else f"{listed} and {len(names) - SHOWN} more"
