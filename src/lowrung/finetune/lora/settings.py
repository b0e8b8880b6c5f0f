"""An adapter's settings: which modules of a model they mean, and what keeps them from fitting it."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lowrung.config.schema import is_converted
from lowrung.finetune.models import added_tokens

ATTENTION = re.compile(r"(^|\.)(\w*attn\w*|\w*attention\w*)$")
MLP = re.compile(r"(^|\.)(\w*mlp\w*|\w*feed_forward\w*|\w*ffn\w*|experts(\.\d+)?)$")
"""How the parents of linear layers are called in the architectures of transformers."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """An adapter's settings; the fields are those of `lowrung.config.schema.LoraConf`, which says what they mean.

    Attributes:
        added_rows: the rows of embedding and head that are not the base's; see `pretrained.added_rows`.
    """

    r: int
    alpha: float
    dropout: float = 0.0
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init: str = "default"
    init_examples: int = 128
    target_modules: str | Sequence[str] = "all-linear"
    modules_to_save: Sequence[str] = ()
    trainable_token_indices: Sequence[int] = ()
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
    layers_to_transform: Sequence[int] | None = None
    added_rows: Sequence[int] = ()

    def rank(self, name: str) -> int:
        """The rank of one module, by its whole name; the first pattern that fits decides, as in PEFT."""
        return next((rank for key, rank in self.rank_pattern.items() if fits_pattern(key, name)), self.r)

    def alpha_of(self, name: str) -> float:
        """The alpha of one module, likewise."""
        return next((alpha for key, alpha in self.alpha_pattern.items() if fits_pattern(key, name)), self.alpha)


def fits_pattern(key: str, name: str) -> bool:
    """Whether a key of a rank or alpha pattern means a module: the end of its name, as PEFT reads it."""
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
    chosen = [name for name in linear_layers(model) if _is_wanted(name, wanted)]
    return chosen if layers is None else [name for name in chosen if layer_number(name) in layers]


def _is_wanted(name: str, wanted: str | Sequence[str]) -> bool:
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
    """The whole names of the modules that a name means: itself, or the end of a whole name after a dot."""
    return [whole for whole, _ in model.named_modules() if whole == name or whole.endswith(f".{name}")]


def token_rows(model: PreTrainedModel, lora: Lora) -> dict[str, list[int]]:
    """The rows that are trained by themselves, by the whole name of their matrix: the embedding, or the head.

    The base lacks added rows in both, so they are trained in both, but for a matrix that is trained whole. A head that
    is tied to the embedding follows it.
    """
    if not (lora.added_rows or lora.trainable_token_indices):
        return {}
    embedding, *head = matrices(model)
    whole = _trained_whole(model, lora)
    added = {name: {*lora.added_rows} for name in (embedding, *([] if is_tied(model) else head)) if name not in whole}
    rows = {**added, embedding: {*added.get(embedding, ()), *lora.trainable_token_indices}}
    return {name: sorted(numbers) for name, numbers in rows.items() if numbers}


def matrices(model: PreTrainedModel) -> list[str]:
    """The whole names of the embedding and of the head, if there is one."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name for end in ends for name, module in model.named_modules() if module is end]


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the config ties the head to the embedding."""
    return bool(model.config.get_text_config().tie_word_embeddings)


def _trained_whole(model: PreTrainedModel, lora: Lora) -> set[str]:
    return {name for wanted in lora.modules_to_save for name in named(model, wanted)}


def problems(model: PreTrainedModel, lora: Lora) -> Iterator[str]:
    """What keeps these settings from fitting this model.

    Args:
        model: the base's skeleton.
        lora: the adapter's settings.
    """
    linear = linear_layers(model)
    found = _target_problems(model, lora, targetable(model))
    yield from found
    chosen = targets(model, lora.target_modules, lora.layers_to_transform)
    for name in lora.modules_to_save:
        if not named(model, name):
            yield f"lora.modules_to_save must name modules of the model, but it has no {name}."
    yield from _token_problems(model, lora)
    yield from _added_row_problems(model, lora)
    if found:
        return
    for field in ("rank_pattern", "alpha_pattern"):
        for key in getattr(lora, field):
            if not any(fits_pattern(key, name) for name in chosen):
                yield f"lora.{field} must name adapted modules, but {key!r} fits none of {_some(chosen)}."
    if is_converted(lora.init) or lora.init in ("loftq", "mica"):
        yield from _init_problems(lora, {name: linear[name] for name in chosen})


def _target_problems(model: PreTrainedModel, lora: Lora, available: Sequence[str]) -> list[str]:
    wanted, layers, linear = lora.target_modules, lora.layers_to_transform, linear_layers(model)
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), None)
    names = [] if isinstance(wanted, str) else list(wanted)
    found = []
    if head is not None and (head in names or (isinstance(wanted, str) and wanted == head)):
        names = [name for name in names if name != head]
        found.append(
            f"lora.target_modules cannot hold the head, {head}, which SFTTrainer refuses. Train it whole:"
            f" 'lora.modules_to_save=[{head}]'."
        )
    if unknown := [name for name in names if not any(_is_wanted(layer, [name]) for layer in linear)]:
        found.append(
            f"lora.target_modules must name linear modules of the model, but it has no {', '.join(unknown)}."
            f" It has {', '.join(available)}."
        )
    if not found and not targets(model, wanted, None):
        found.append(
            f"lora.target_modules must fit linear modules of the model, but {wanted!r} fits none. It has"
            f" {_some(list(linear))}."
        )
    last = max((number for name in linear if (number := layer_number(name)) is not None), default=-1)
    if beyond := [layer for layer in layers or () if layer > last]:
        found.append(
            f"lora.layers_to_transform must be blocks of the model, 0 to {last}, but holds"
            f" {', '.join(map(str, beyond))}."
        )
    return found


def _token_problems(model: PreTrainedModel, lora: Lora) -> Iterator[str]:
    if not lora.trainable_token_indices:
        return
    rows = added_tokens.row_count(model)
    if beyond := [str(index) for index in lora.trainable_token_indices if not 0 <= index < rows]:
        yield (
            f"lora.trainable_token_indices must be tokens of the model, 0 to {rows - 1}, but holds {', '.join(beyond)}."
        )
    rivals = set(matrices(model) if is_tied(model) else matrices(model)[:1])
    for wanted in lora.modules_to_save:
        if rivals & set(named(model, wanted)):
            yield (
                f"lora.trainable_token_indices trains rows of a matrix that lora.modules_to_save trains whole: {wanted}"
                f"{', which is tied to the embedding' if is_tied(model) else ''}. Leave one of them out."
            )


def _added_row_problems(model: PreTrainedModel, lora: Lora) -> Iterator[str]:
    rows = token_rows(model, lora)
    if not (rows or lora.added_rows):
        return
    embedding, *heads = matrices(model)
    whole = [name for name in (embedding, *heads) if name in _trained_whole(model, lora)]
    if lora.added_rows and is_tied(model) and len(whole) == 1:
        yield (
            "model.added_tokens need rows in the embedding and in the head that is tied to it, but"
            f" lora.modules_to_save trains only {whole[0]}. Name both, 'lora.modules_to_save=[{embedding},{heads[0]}]',"
            " or neither."
        )
    for head in heads:
        has_bias = getattr(model.get_output_embeddings(), "bias", None) is not None
        if has_bias and (head in rows or (is_tied(model) and embedding in rows)):
            yield (
                f"The head, {head}, has biases, which PEFT leaves out where only some of its rows are trained. Train it"
                f" whole: 'lora.modules_to_save=[{embedding},{head}]'."
            )


def _init_problems(lora: Lora, chosen: Mapping[str, nn.Module]) -> Iterator[str]:
    if lora.init == "olora" and any(isinstance(module, Conv1D) for module in chosen.values()):
        yield (
            "lora.init=olora does not fit Conv1D layers, whose weights are the other way round from what PEFT"
            " decomposes. Use lora.init=pissa, which does."
        )
    part, share = ("half the smaller side", 2) if lora.init == "lora_ga" else ("the smaller side", 1)
    for name, module in chosen.items():
        most = min(next(module.parameters()).shape) // share
        if lora.rank(name) > most:
            yield (
                f"lora.init={lora.init} needs ranks up to {part} of each adapted matrix, but lora.r is"
                f" {lora.rank(name)}, and {name} has {most}. Lower lora.r, or that module's rank in lora.rank_pattern."
            )
            return


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
