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
    if "neftune_noise_alpha" in train.sft:
        yield (
            f"train.sft.neftune_noise_alpha follows the longest row of a batch, of which each rank has a part, so"
            f" train.parallel must be none with it, but is {train.parallel}."
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
