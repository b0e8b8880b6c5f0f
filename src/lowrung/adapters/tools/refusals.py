"""The settings that another tool cannot express, in words: the setting, its value, why, and what to do."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from lowrung.config.schema import Config, LoraConf, ModelConf
from lowrung.finetune.models import pretrained


def of_every_tool(tool: str, config: Config, device: str) -> Iterator[str]:
    """What no tool does as lowrung does it.

    Args:
        tool: the tool's name.
        config: of the run.
        device: the kind that it was trained on.
    """
    lora, model, train = config.lora, config.model, config.train
    if lora.is_full:
        yield "lora=full has no adapter, and only adapters are exported. Export a run of an adapter."
        return
    if lora.alpha != int(lora.alpha):
        yield f"lora.alpha={lora.alpha:g} must be whole in {tool}. Train with lora.alpha={max(round(lora.alpha), 1)}."
    if lora.bias != "none":
        yield f"lora.bias={lora.bias} trains biases, and {tool} trains none. Train with lora.bias=none."
    if model.quantization != "none":
        yield (
            f"model.quantization={model.quantization} has norms, head and embeddings in float32, and {tool} leaves them"
            " in the base's precision: its losses would differ. Train with model.quantization=none."
        )
    if model.added_tokens:
        yield "model.added_tokens adds rows to the base that start at the others' mean. Train without them."
    if model.dtype == "auto" and device != "cpu" and pretrained.device().type == "cpu":
        yield f"model.dtype=auto was chosen for {device}, and there is none here. Export where there is one."
    if train.packing:
        yield (
            f"train.packing=true fills rows in lowrung's own order, and {tool} in another: its losses would differ."
            " Train with train.packing=false."
        )
    if train.early_stopping:
        yield (
            f"train.early_stopping={train.early_stopping} ended the run by its evaluations, and {tool} has none. Train"
            " with train.early_stopping=null and as many steps."
        )
    if train.lr_scheduler_type == "reduce_lr_on_plateau":
        yield (
            "train.lr_scheduler_type=reduce_lr_on_plateau lowers the rate by the evaluations, and none are exported."
            " Train with another schedule."
        )


def of_base(tool: str, model: ModelConf, base: Any) -> Iterator[str]:
    """Bases that only lowrung trains as it does.

    Args:
        tool: the tool's name.
        model: the base's settings.
        base: its config, as transformers reads it.
    """
    if base.sub_configs:
        yield (
            f"model.path={model.path} has parts for other inputs than text, which {tool} loads and adapts in its own"
            " way. Train a base that takes text alone."
        )
    if getattr(base, "output_router_logits", False):
        yield (
            f"model.path={model.path} adds its router's loss, since its config.json has output_router_logits, and"
            " lowrung leaves it out. Set it to false there, and train again."
        )


def init(tool: str, lora: LoraConf, known: Collection[str]) -> Iterator[str]:
    """An init that the tool cannot be asked for.

    Args:
        tool: the tool's name.
        lora: the adapter's settings.
        known: the inits that it can be asked for.
    """
    if lora.init not in known:
        yield (
            f"lora.init={lora.init} is no init that {tool} can be asked for: it has {', '.join(known)}. Train with one"
            " of these."
        )


def without_a_field(tool: str, group: str, part: Any, names: Iterable[str]) -> Iterator[str]:
    """Settings that the tool has no field for, where they are set."""
    for name in names:
        if value := getattr(part, name):
            yield f"{group}.{name}={value} has no field in {tool}. Train without it."


def of_peft(tool: str, lora: LoraConf, known: Collection[str] = ()) -> Iterator[str]:
    """Options of PEFT that the tool has no field for."""
    for name, value in lora.peft.items():
        if name not in known:
            yield f"lora.peft.{name}={value} has no field in {tool}. Train without it."
