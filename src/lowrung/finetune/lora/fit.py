"""What keeps an adapter's settings from fitting a model, found without the model's weights."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lowrung.config.schema import LoraConf, is_converted, pattern
from lowrung.errors import some
from lowrung.finetune.lora import peft_options, settings
from lowrung.finetune.models import added_tokens


def problems(model: PreTrainedModel, lora: LoraConf, added_rows: Sequence[int] = ()) -> Iterator[str]:
    """What keeps these settings from fitting this model.

    Args:
        model: the base's skeleton.
        lora: the adapter's settings.
        added_rows: the rows of embedding and head that are not the base's; see `pretrained.added_rows`.
    """
    if options := peft_options.problems(lora):
        yield from options
        return
    linear = settings.linear_layers(model)
    found = [*_target_problems(model, lora, settings.targetable(model)), *_parameter_problems(model, lora)]
    yield from found
    for name in lora.modules_to_save:
        if not settings.named(model, name):
            yield f"lora.modules_to_save must name modules of the model, but it has no {name}."
    yield from _token_problems(model, lora)
    yield from _added_row_problems(model, lora, added_rows)
    if found:
        return
    chosen = settings.targets(model, lora)
    adapted = [*chosen, *settings.target_parameters(model, lora)]
    for field in ("rank_pattern", "alpha_pattern"):
        for key in pattern(getattr(lora, field)):
            if not any(settings.fits_pattern(key, name) for name in adapted):
                yield f"lora.{field} must name adapted modules, but {key!r} fits none of {some(adapted)}."
    if lora.peft.get("lora_bias"):
        yield from _bias_problems({name: linear[name] for name in chosen})
    if is_converted(lora.init) or lora.init in ("loftq", "mica"):
        yield from _init_problems(lora, {name: linear[name] for name in chosen})


def _target_problems(model: PreTrainedModel, lora: LoraConf, available: Sequence[str]) -> list[str]:
    wanted, layers, linear = lora.target_modules, lora.layers_to_transform, settings.linear_layers(model)
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), None)
    names = [] if isinstance(wanted, str) else list(wanted)
    found = []
    if head is not None and (head in names or (isinstance(wanted, str) and wanted == head)):
        names = [name for name in names if name != head]
        found.append(
            f"lora.target_modules must not name the head, {head}, which SFTTrainer refuses. Train it whole:"
            f" 'lora.modules_to_save=[{head}]'."
        )
    if unknown := [name for name in names if not any(settings.is_wanted(layer, [name]) for layer in linear)]:
        found.append(
            f"lora.target_modules must name linear modules of the model, but it has no {', '.join(unknown)}."
            f" It has {', '.join(available)}.{_taken(model, unknown)}"
        )
    anywhere = dataclasses.replace(lora, layers_to_transform=None)
    if not found and wanted != [] and not settings.targets(model, anywhere):
        found.append(
            f"lora.target_modules must fit linear modules of the model, but {wanted!r} fits none{_excluding(lora)}."
            f" It has {some(list(linear))}."
        )
    lists = lora.peft.get("layers_pattern") or []
    last = max((number for name in linear if (number := settings.layer_number(name, lists)) is not None), default=-1)
    if lists and last < 0:
        found.append(f"lora.peft.layers_pattern must name a list of the model's blocks, but no layer is in {lists!r}.")
    elif beyond := [layer for layer in layers or () if layer > last]:
        found.append(
            f"lora.layers_to_transform must be blocks of the model, 0 to {last}, but holds"
            f" {', '.join(map(str, beyond))}."
        )
    return found


def _parameter_problems(model: PreTrainedModel, lora: LoraConf) -> Iterator[str]:
    if lora.experts and not settings.experts(model):
        yield "lora.experts=true needs a mixture with stacked experts, but the model has none. Leave it out."
    known = dict(model.named_parameters())
    for wanted in lora.peft.get("target_parameters") or []:
        meant = [parameter for name, parameter in known.items() if settings.ends_with_any(name, [wanted])]
        if not meant:
            yield (
                f"lora.peft.target_parameters must name parameters of the model, but it has no {wanted}. It has"
                f" {some(list(settings.experts(model)) or list(known))}."
            )
        elif any(parameter.ndim not in (2, 3) for parameter in meant):
            yield (
                f"lora.peft.target_parameters must name matrices or stacks of them, but {wanted} has the shape"
                f" {tuple(meant[0].shape)}."
            )


def _bias_problems(chosen: Mapping[str, nn.Module]) -> Iterator[str]:
    if without := [name for name, module in chosen.items() if getattr(module, "bias", None) is None]:
        yield (
            f"lora.peft.lora_bias needs adapted layers that have biases, to which merging adds it, but {some(without)}"
            " have none. Leave lora.peft.lora_bias out, or those layers with lora.target_modules."
        )


def _token_problems(model: PreTrainedModel, lora: LoraConf) -> Iterator[str]:
    if not lora.trainable_token_indices:
        return
    rows = added_tokens.row_count(model)
    if beyond := [str(index) for index in lora.trainable_token_indices if not 0 <= index < rows]:
        yield (
            f"lora.trainable_token_indices must be tokens of the model, 0 to {rows - 1}, but holds {', '.join(beyond)}."
        )
    rivals = set(settings.matrices(model) if settings.is_tied(model) else settings.matrices(model)[:1])
    for wanted in lora.modules_to_save:
        if rivals & set(settings.named(model, wanted)):
            yield (
                f"lora.trainable_token_indices trains rows of a matrix that lora.modules_to_save trains whole: {wanted}"
                f"{', which is tied to the embedding' if settings.is_tied(model) else ''}. Leave one of them out."
            )


def _added_row_problems(model: PreTrainedModel, lora: LoraConf, added_rows: Sequence[int]) -> Iterator[str]:
    rows = settings.token_rows(model, lora, added_rows)
    if not (rows or added_rows):
        return
    embedding, *heads = settings.matrices(model)
    whole = [name for name in (embedding, *heads) if name in settings.trained_whole(model, lora)]
    if added_rows and settings.is_tied(model) and len(whole) == 1:
        yield (
            "model.added_tokens need rows in the embedding and in the head that is tied to it, but"
            f" lora.modules_to_save trains only {whole[0]}. Name both, 'lora.modules_to_save=[{embedding},{heads[0]}]',"
            " or neither."
        )
    for head in heads:
        has_bias = getattr(model.get_output_embeddings(), "bias", None) is not None
        if has_bias and (head in rows or (settings.is_tied(model) and embedding in rows)):
            yield (
                f"The head, {head}, has biases, which PEFT leaves out where only some of its rows are trained. Train it"
                f" whole: 'lora.modules_to_save=[{embedding},{head}]'."
            )


def _init_problems(lora: LoraConf, chosen: Mapping[str, nn.Module]) -> Iterator[str]:
    if lora.init == "olora" and any(isinstance(module, Conv1D) for module in chosen.values()):
        yield (
            "lora.init=olora needs linear layers, but the model has Conv1D layers, whose weights are transposed. Use"
            " lora.init=pissa, which fits both."
        )
    part, share = ("half the smaller side", 2) if lora.init == "lora_ga" else ("the smaller side", 1)
    for name, module in chosen.items():
        most = min(next(module.parameters()).shape) // share
        if settings.rank(lora, name) > most:
            yield (
                f"lora.init={lora.init} needs ranks of at most {part} of each adapted matrix, which is {most} for"
                f" {name}, but its rank is {settings.rank(lora, name)}. Lower lora.r, or that module's rank in"
                " lora.rank_pattern."
            )
            return


def _taken(model: PreTrainedModel, names: Sequence[str]) -> str:
    taken = sorted({name.rsplit(".", 1)[-1] for name in names} & settings.taken_names(model))
    return f" PEFT takes {', '.join(taken)} for names of experts: use lora.experts=true." if taken else ""


def _excluding(lora: LoraConf) -> str:
    excluded = lora.peft.get("exclude_modules")
    return f" that lora.peft.exclude_modules={excluded!r} leaves" if excluded else ""
