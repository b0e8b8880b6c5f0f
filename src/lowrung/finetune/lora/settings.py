"""What an adapter's settings mean on a model: which modules, parameters and rows are trained, with which ranks."""

import re
from collections.abc import Sequence

from torch import nn
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


def linear_layers(model: PreTrainedModel, *, of_text: bool = True) -> dict[str, nn.Module]:
    """Every linear layer by its whole name but the head; without ``of_text`` also those that text does not go through.

    LoRA targets those of text. Only models that take images or sound too have others.
    """
    head = model.get_output_embeddings()
    modules = _text_modules(model) if of_text else dict(model.named_modules())
    return {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def stacks(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Every parameter that is a stack of matrices, by its whole name: the experts of a mixture, of shape (experts, …).

    They are no linear layers. A convolution's weights are not meant, though they have three dimensions too.
    """
    return {
        f"{module_name}.{name}": parameter
        for module_name, module in _text_modules(model).items()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and not isinstance(module, _ConvNd)
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
    experts = [name for name in stacks(model) if is_in_layers(name, lora)] if lora.experts else []
    return [name for name, _ in model.named_parameters() if name in experts or ends_with_any(name, ends)]


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
