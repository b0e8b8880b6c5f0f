"""Tries ``train.sft`` out before the first run: on TRL's dataclass, an optimiser, a schedule and a few numbers."""

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import get_scheduler
from transformers.integrations.neftune import neftune_post_forward_hook
from trl import SFTConfig, SFTTrainer

from lowrung.config.schema import TrainConf
from lowrung.errors import did_you_mean, said
from lowrung.finetune import library_options
from lowrung.finetune.models import pretrained
from lowrung.finetune.training import sft_fields
from lowrung.finetune.training.trainer import arguments

STEPS = 200
"""The steps of a schedule that are tried out, where a run has more."""


def problems(trains: Sequence[TrainConf]) -> list[str]:
    """What is wrong with ``train.sft``, and with a schedule that takes settings from there, each once.

    Fields are held to TRL's own dataclass. What they are worth is asked of what uses them: the optimiser makes a step
    on the device of the run, the schedule runs. An option that nothing reads is a problem too.
    """
    return list(dict.fromkeys(problem for train in trains for problem in _problems(train)))


def notes(trains: Sequence[TrainConf]) -> list[str]:
    """What takes another setting's part."""
    return list(dict.fromkeys(note for train in trains for note in _notes(train)))


def _problems(train: TrainConf) -> list[str]:
    given = train.sft
    if found := [*_field_problems(given)]:
        return found
    try:
        tried = arguments(train, rows=1, max_length=8, seed=0, checkpoints=Path("unused"))
    except Exception as error:
        return [f"train.sft must be what SFTConfig takes, but it says: {said(error)}"]
    return [*_optimizer_problems(tried, given), *_schedule_problems(tried, given, train), *_number_problems(given)]


def _notes(train: TrainConf) -> Iterator[str]:
    steps = train.sft.get("warmup_steps")
    if steps is None:
        return
    if train.warmup_ratio:
        yield f"train.sft.warmup_steps={steps:g} takes the part of train.warmup_ratio={train.warmup_ratio:g}"
    if train.max_steps is not None and steps > train.max_steps:
        yield f"train.sft.warmup_steps={steps:g} is more than train.max_steps={train.max_steps}: the rate only rises"


def _field_problems(given: dict[str, Any]) -> Iterator[str]:
    refused = sft_fields.refused()
    for name, value in given.items():
        known = sft_fields.CHOICES.get(name)
        found = library_options.problems(SFTConfig, {name: value}, refused, "train.sft")
        if known is None or name in refused:
            yield from found
        elif value not in known:
            hint = did_you_mean(str(value), known) if found else ""
            yield (
                f"train.sft.{name} must be one of {', '.join(known)}, which lowrung's training was tried with, but is"
                f" {value!r}.{hint}"
            )


# -- the optimiser -----------------------------------------------------------------------------------------------------


def _optimizer_problems(tried: SFTConfig, given: dict[str, Any]) -> Iterator[str]:
    name = _spelling(tried.optim)
    options = tried.optim_args or ""
    if any("=" not in option for option in options.split(",") if options):
        yield f"train.sft.optim_args must be like 'momentum=0.9,nesterov=true', but is {options!r}."
        return
    try:
        _step(tried)
    except ImportError as error:
        yield (
            f"train.sft.optim={name} needs a package that is not installed: {said(error)}. For bitsandbytes:"
            " pip install 'lowrung[quantization]'."
        )
        return
    except Exception as error:
        yield f"train.sft must be what the optimiser {name} takes, but it says: {said(error)}"
        return
    for field in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        if field in given and _kwargs(tried) == _kwargs(tried, **{field: given[field] + 1}):
            yield f"train.sft.{field} must be left out: the optimiser {name} does not read it."
    parts = [part for part in options.split(",") if part]
    for part in parts:
        others = ",".join(other for other in parts if other != part)
        if _kwargs(tried) == _kwargs(tried, optim_args=others):
            yield f"train.sft.optim_args must hold what the optimiser {name} reads, but it does not read {part!r}."


def _step(tried: SFTConfig) -> None:
    """A step over as many numbers as bitsandbytes holds in 8 bits; smaller tensors stay in 32."""
    kind, settings = SFTTrainer.get_optimizer_cls_and_kwargs(tried)
    layer = nn.Linear(64, 64, bias=False, device=pretrained.device())
    layer(torch.ones(1, 64, device=pretrained.device())).sum().backward()
    kind(layer.parameters(), **settings).step()
    if not layer.weight.isfinite().all():
        raise ValueError("a first step gives weights that are not finite")


def _kwargs(tried: SFTConfig, **changed: Any) -> Any:
    """What the trainer gives to the optimiser, with changed fields."""
    other = copy.copy(tried)
    for name, value in changed.items():
        setattr(other, name, value)
    return SFTTrainer.get_optimizer_cls_and_kwargs(other)


# -- the schedule, and single numbers ----------------------------------------------------------------------------------


def _schedule_problems(tried: SFTConfig, given: dict[str, Any], train: TrainConf) -> Iterator[str]:
    name, steps = train.lr_scheduler_type, train.max_steps or STEPS
    kwargs: Any = tried.lr_scheduler_kwargs or {}
    try:
        rates = _rates(tried, steps, kwargs, tried.get_warmup_steps(steps))
    except Exception as error:
        yield f"train.sft.lr_scheduler_kwargs must be what {name} takes, but it says: {said(error)}"
        return
    if any(not (math.isfinite(rate) and rate >= 0) for rate in rates):
        yield f"train.sft.lr_scheduler_kwargs must give rates of at least 0, but with {name} one is {min(rates):g}."
    if kwargs and _takes_anything(tried, steps):
        yield f"train.sft.lr_scheduler_kwargs must be left out: train.lr_scheduler_type={name} does not read it."
    if given.get("warmup_steps") and rates == _rates(tried, steps, kwargs, 0):
        yield f"train.sft.warmup_steps must be left out: train.lr_scheduler_type={name} does not read it."


def _rates(tried: SFTConfig, steps: int, kwargs: dict[str, Any], warmup: int) -> list[float]:
    """The learning rates of the first steps; one that follows the eval loss has its first alone."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=tried.learning_rate)
    schedule = get_scheduler(
        tried.lr_scheduler_type,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=steps,
        scheduler_specific_kwargs=kwargs,
    )
    rates = [optimizer.param_groups[0]["lr"]]
    if isinstance(schedule, ReduceLROnPlateau):
        return rates
    for _ in range(min(steps, STEPS)):
        optimizer.step()
        schedule.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def _takes_anything(tried: SFTConfig, steps: int) -> bool:
    """Whether a schedule reads no settings at all: it does not refuse one that nobody has."""
    try:
        _rates(tried, steps, {"lowrung": 1}, 0)
    except Exception:
        return False
    return True


def _number_problems(given: dict[str, Any]) -> Iterator[str]:
    multiple = given.get("pad_to_multiple_of")
    if (isinstance(multiple, int) and multiple < 1) or (isinstance(multiple, str) and multiple != "auto"):
        yield f"train.sft.pad_to_multiple_of must be at least 1, null or auto, but is {multiple!r}."
    noise = given.get("neftune_noise_alpha")
    if noise is not None and not _noise_is_possible(noise):
        yield f"train.sft.neftune_noise_alpha must be at least 0 and finite, but is {noise}."


def _noise_is_possible(alpha: float) -> bool:
    embedding: Any = nn.Embedding(2, 2)
    embedding.neftune_noise_alpha = alpha
    ids = torch.zeros(1, 1, dtype=torch.long)
    try:
        return bool(neftune_post_forward_hook(embedding, (ids,), embedding(ids)).isfinite().all())
    except (RuntimeError, ValueError):
        return False


def _spelling(optim: Any) -> str:
    return str(getattr(optim, "value", optim))
