"""What an adapter's settings mean on a model: which modules and rows are trained, with which ranks."""

import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lowrung.config.schema import LoraConf, pattern

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
    """Every linear layer that LoRA can target by its whole name: all but the head."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def targetable(model: PreTrainedModel) -> list[str]:
    """The last parts of the linear layers' names, as a list of targets would name them."""
    return sorted({name.rsplit(".", 1)[-1] for name in linear_layers(model)})


def targets(model: PreTrainedModel, wanted: str | Sequence[str], layers: Sequence[int] | None) -> list[str]:
    """The whole names of the modules that are adapted, in the model's order.

    Args:
        model: the base, or its skeleton.
        wanted: ``all-linear``, ``attention``, ``mlp``, names as PEFT takes them (whole, or the end of a whole
            name after a dot), or a regular expression over whole names.
        layers: the numbers of the blocks that are adapted, or None for all.
    """
    chosen = [name for name in linear_layers(model) if is_wanted(name, wanted)]
    return chosen if layers is None else [name for name in chosen if layer_number(name) in layers]


def is_wanted(name: str, wanted: str | Sequence[str]) -> bool:
    """Whether ``lora.target_modules`` mean the linear layer of this whole name; see `targets`."""
    if not isinstance(wanted, str):
        return any(name == target or name.endswith(f".{target}") for target in wanted)
    if wanted == "all-linear":
        return True
    parent = name.rsplit(".", 1)[0]
    if wanted in ("attention", "mlp"):
        return (ATTENTION if wanted == "attention" else MLP).search(parent) is not None
    return re.fullmatch(wanted, name) is not None


def layer_number(name: str) -> int | None:
    """The number of the block that a module is in, or None outside the blocks."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


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
