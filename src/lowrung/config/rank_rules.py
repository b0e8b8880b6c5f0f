"""The rules for ranks, the processes that train one model together; messages are in the user's spelling."""

from collections.abc import Iterator

from lowrung.config import schema
from lowrung.config.limits import one_of
from lowrung.config.schema import Config


def problems(config: Config) -> Iterator[str]:
    """What is wrong with the ranks of a config, whatever GPUs there are."""
    train = config.train
    yield from one_of("train.parallel", train.parallel, schema.PARALLELS)
    if train.parallel == "none":
        if train.ranks is not None:
            yield (
                f"train.ranks must be null where one process trains, but is {train.ranks} and train.parallel is none."
                " Add train.parallel=ddp."
            )
        return
    if train.ranks is not None and train.ranks < 2:
        yield (
            f"train.ranks must be at least 2 with train.parallel={train.parallel}, but is {train.ranks}. Use"
            " train.parallel=none for one."
        )
    elif train.ranks is not None:
        yield from _batch_problems(config, train.ranks)
    if config.model.device_map is not None:
        yield (
            f"train.parallel={train.parallel} gives each GPU a process of its own, but"
            f" model.device_map={config.model.device_map} spreads the model of one process over all. Leave one of them"
            " out."
        )
    if train.parallel == "fsdp":
        yield from _division_problems(config)
    if "neftune_noise_alpha" in train.sft:
        yield (
            f"train.sft.neftune_noise_alpha follows the longest row of a batch, of which each rank has a part, so"
            f" train.parallel must be none with it, but is {train.parallel}."
        )


def _division_problems(config: Config) -> Iterator[str]:
    """What cannot be done where each rank holds a part of the base, or was not seen to be right there."""
    lora, model = config.lora, config.model
    if lora.is_full:
        yield (
            "train.parallel=fsdp divides a frozen base among the ranks, but lora=full freezes nothing. Use an adapter,"
            " or train.parallel=ddp."
        )
        return
    others = sorted(lora.peft.keys() - {"exclude_modules"})
    needs_whole = {
        f"model.quantization={model.quantization}": model.quantization != "none",
        "model.added_tokens": model.added_tokens,
        f"lora.init={lora.init}": lora.init not in ("default", "gaussian", "orthogonal"),
        "lora.use_dora": lora.use_dora,
        f"lora.bias={lora.bias}": lora.bias != "none",
        "lora.experts": lora.experts,
        "lora.modules_to_save": lora.modules_to_save,
        "lora.trainable_token_indices": lora.trainable_token_indices,
        **{f"lora.peft.{name}": True for name in others},
        "train.early_stopping": config.train.early_stopping is not None,
    }
    for setting, is_set in needs_whole.items():
        if is_set:
            yield (
                f"train.parallel=fsdp leaves each rank a part of the base, and {setting} needs all of it, or was not"
                " tried with a part. Use train.parallel=ddp, or leave it out."
            )


def gpu_problems(config: Config, gpus: float, how: str) -> Iterator[str]:
    """What is wrong with the ranks of a config that keeps the rules, on the GPUs of its trial.

    Args:
        config: a config.
        gpus: how many a trial has; 0 where there are none.
        how: what sets their number to two.
    """
    train = config.train
    if train.parallel == "none":
        return
    if not gpus:
        if train.ranks is None:
            yield (
                f"train.parallel={train.parallel} must have train.ranks where there is no GPU to count, but it is null."
                " An example: train.ranks=2."
            )
    elif gpus != int(gpus) or gpus < 2:
        yield (
            f"train.parallel={train.parallel} must have two whole GPUs or more for a trial, one for each rank, but has"
            f" {gpus:g}. Set {how}, or use train.parallel=none."
        )
    elif train.ranks not in (None, gpus):
        yield (
            f"train.ranks must be the number of a trial's GPUs, {gpus:g}, one for each rank, but is {train.ranks}."
            " Leave it out."
        )
    elif train.ranks is None:
        yield from _batch_problems(config, int(gpus))


def _batch_problems(config: Config, ranks: int) -> Iterator[str]:
    size = config.train.batch_size
    if size % ranks:
        yield (
            f"train.batch_size must be a multiple of the ranks that divide it, {ranks}, but is {size}."
            f" {size + -size % ranks} is one."
        )
