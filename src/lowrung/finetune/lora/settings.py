"""What an adapter's settings mean on a model: which modules, parameters and rows are trained, with which ranks."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lowrung.config.schema import LoraConf, pattern
from lowrung.finetune.models import text_path

ATTENTION = re.compile(r"(^|\.)(\w*attn\w*|\w*attention\w*)$")
MLP = re.compile(r"(^|\.)(\w*mlp\w*|\w*feed_forward\w*|\w*ffn\w*|experts(\.\d+)?)$")
"""How the parents of linear layers are called in the architectures of transformers."""


def rank(lora: LoraConf, name: str) -> int:
    """The rank of one module, by its whole name; the first pattern that fits decides, as in PEFT."""
    return next((rank for key, rank in pattern(lora.rank_pattern).items() if fits_pattern(key, name)), lora.r)


def alpha(lora: LoraConf, name: str) -> float:
    """The alpha of one module, by its whole name; the first pattern that fits decides, as in PEFT."""
    return next((alpha for key, alpha in pattern(lora.alpha_pattern).items() if fits_pattern(key, name)), lora.alpha)


def fits_pattern(key: str, name: str) -> bool:
    """Whether a key of a rank or alpha pattern matches a module: PEFT matches the end of its name."""
    return re.match(rf"(.*\.)?({key})$", name) is not None


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer that LoRA can target by its whole name.

    That is all but the head, routers that return more than a product, layers whose names PEFT takes for others
    (`taken_names`), and, of a model that takes images or sound too, layers that text does not go through.
    """
    taken = taken_names(model)
    reached = _text_modules(model)
    return {
        name: module
        for name, module in all_linear_layers(model).items()
        if name in reached and name.rsplit(".", 1)[-1] not in taken
    }


def all_linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer by its whole name but the head and routers, whether LoRA can target it or not."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and _gives_a_product(module)
    }


def _gives_a_product(module: nn.Module) -> bool:
    """Whether a layer returns one tensor, as PEFT expects; routers that are linear layers may return several."""
    if type(module).forward in (nn.Linear.forward, Conv1D.forward) or hasattr(module, "source_cls"):  # or is quantised
        return True
    weight: Any = module.weight
    try:
        given = copy.deepcopy(module).to("meta")(torch.empty(2, weight.shape[-1], dtype=weight.dtype, device="meta"))
    except Exception:  # it takes more than one input, or reads numbers
        return True
    return isinstance(given, Tensor)


def taken_names(model: PreTrainedModel) -> set[str]:
    """The last parts of linear layers' names that PEFT takes for something else in this architecture.

    It reads ``gate_proj`` as an expert's in models whose experts had that name in transformers 4, also where it is the
    name of a dense layer or of shared experts; no spelling of these reaches PEFT.
    """
    names = {name.rsplit(".", 1)[-1] for name in all_linear_layers(model)}
    return {name for name in names if name not in _converted(model, name)}


def _converted(model: PreTrainedModel, name: str) -> set[str]:
    """What PEFT makes of the name of a target."""
    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model=model, conversions=None)
    except ValueError:  # "without also targeting": it is a part of what is fused
        return set()
    return set(config.target_modules or ())


def experts(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Every parameter that holds a matrix for each expert of a mixture, (experts, …, …), by its whole name.

    They are no linear layers. Other parameters have three dimensions too, so the first one must be a number of experts
    in the config, and the module no convolution.
    """
    config = model.config.get_text_config().to_dict()
    counts = {value for name, value in config.items() if "expert" in name and isinstance(value, int) and value > 1}
    return {
        f"{module_name}.{name}": parameter
        for module_name, module in _text_modules(model).items()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.shape[0] in counts and not isinstance(module, _ConvNd)
    }


def _text_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules by their whole names; of a model that takes images or sound too, those that text goes through."""
    modules = dict(model.named_modules())
    if not text_path.has_other_inputs(model):
        return modules
    inside = text_path.in_language_model(model)
    return {name: module for name, module in modules.items() if name in inside}


def targetable(model: PreTrainedModel) -> list[str]:
    """The last parts of the linear layers' names, as a list of targets would name them."""
    return sorted({name.rsplit(".", 1)[-1] for name in linear_layers(model)})


def targets(model: PreTrainedModel, lora: LoraConf) -> list[str]:
    """The whole names of the linear layers that are adapted, in the model's order.

    They are those that ``lora.target_modules`` means, in the blocks of ``lora.layers_to_transform``, without those of
    ``lora.peft.exclude_modules``.
    """
    excluded = lora.peft.get("exclude_modules") or []
    return [
        name
        for name in linear_layers(model)
        if is_wanted(name, lora.target_modules) and not _is_excluded(name, excluded) and is_in_layers(name, lora)
    ]


def target_parameters(model: PreTrainedModel, lora: LoraConf) -> list[str]:
    """The whole names of the parameters that are adapted beside linear layers, in the model's order.

    They are the experts in the blocks of ``lora.layers_to_transform`` where ``lora.experts`` is true, and those that
    ``lora.peft.target_parameters`` names: whole names, or the end of a whole name after a dot.
    """
    ends = lora.peft.get("target_parameters") or []
    stacked = [name for name in experts(model) if is_in_layers(name, lora)] if lora.experts else []
    return [name for name, _ in model.named_parameters() if name in stacked or ends_with_any(name, ends)]


def _is_excluded(name: str, excluded: str | Sequence[str]) -> bool:
    """Whether ``lora.peft.exclude_modules`` means a layer: a regular expression over whole names, or names."""
    if isinstance(excluded, str):
        return bool(excluded) and re.fullmatch(excluded, name) is not None
    return ends_with_any(name, excluded)


def ends_with_any(name: str, ends: Sequence[str]) -> bool:
    """Whether a whole name is one of these names, or ends so after a dot, as PEFT matches them."""
    return any(name == end or name.endswith(f".{end}") for end in ends)


def is_in_layers(name: str, lora: LoraConf) -> bool:
    """Whether a layer or parameter is in one of the blocks of ``lora.layers_to_transform``, or all are meant."""
    if lora.layers_to_transform is None:
        return True
    return layer_number(name, lora.peft.get("layers_pattern") or []) in lora.layers_to_transform


def is_wanted(name: str, wanted: str | Sequence[str]) -> bool:
    """Whether ``lora.target_modules`` mean the linear layer of this whole name; see `targets`.

    Args:
        name: the layer's whole name.
        wanted: ``all-linear``, ``attention``, ``mlp``, names as PEFT takes them (whole, or the end of a whole
            name after a dot), or a regular expression over whole names.
    """
    if not isinstance(wanted, str):
        return ends_with_any(name, wanted)
    if wanted == "all-linear":
        return True
    parent = name.rsplit(".", 1)[0]
    if wanted in ("attention", "mlp"):
        return (ATTENTION if wanted == "attention" else MLP).search(parent) is not None
    return re.fullmatch(wanted, name) is not None


def layer_number(name: str, lists: str | Sequence[str] = ()) -> int | None:
    """The number of the block that a module is in, or None outside the blocks.

    Args:
        name: the module's whole name.
        lists: what the list of the blocks is called, such as ``h``, or several names; none is the outermost list.
    """
    for blocks in [lists] if isinstance(lists, str) else lists:
        if found := re.match(rf"(?:^|.*?\.){blocks}\.(\d+)\.", name):
            return int(found.group(1))
    return None if lists else next((int(part) for part in name.split(".") if part.isdigit()), None)


def named(model: PreTrainedModel, name: str) -> list[str]:
    """The whole names of the modules that a name stands for: it is a whole name, or its end after a dot."""
    return [whole for whole, _ in model.named_modules() if whole == name or whole.endswith(f".{name}")]


def token_rows(model: PreTrainedModel, lora: LoraConf, added_rows: Sequence[int]) -> dict[str, list[int]]:
    """The single rows that are trained, by the whole name of their matrix: the embedding, or the head.

    Added rows are trained in both, since the base has them in neither; but not in a matrix that is trained whole. A
    head that is tied to the embedding shares its rows.

    Args:
        model: the base, or its skeleton.
        lora: the adapter's settings.
        added_rows: the rows of embedding and head that are not the base's; see `pretrained.added_rows`.
    """
    if not (added_rows or lora.trainable_token_indices):
        return {}
    embedding, *head = matrices(model)
    whole = trained_whole(model, lora)
    added = {name: {*added_rows} for name in (embedding, *([] if is_tied(model) else head)) if name not in whole}
    rows = {**added, embedding: {*added.get(embedding, ()), *lora.trainable_token_indices}}
    return {name: sorted(numbers) for name, numbers in rows.items() if numbers}


def matrices(model: PreTrainedModel) -> list[str]:
    """The whole names of the embedding and of the head, if there is one."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name for end in ends for name, module in model.named_modules() if module is end]


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the config ties the head to the embedding."""
    return bool(model.config.get_text_config().tie_word_embeddings)


def trained_whole(model: PreTrainedModel, lora: LoraConf) -> set[str]:
    """The whole names of the modules that are trained whole."""
    return {name for wanted in lora.modules_to_save for name in named(model, wanted)}
