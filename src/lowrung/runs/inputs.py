"""What is known of a run before it starts: its model and data, its signature, its length."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lowrung.config import schema, signature
from lowrung.config.prior import FULL
from lowrung.config.schema import Config
from lowrung.finetune.found import Preflight, Subject
from lowrung.runs import known
from lowrung.store import layout
from lowrung.track import recording


def preflight(config: Config) -> Preflight:
    """What is known of a run's model and data, or is found now in this process; see `lowrung.finetune.preflight`."""
    return known.of(subject([config]))


def subject(configs: Sequence[Config], *, weights: bool = True) -> Subject:
    """What the preflight of configs that share their model and data checks; for a plan it needs no weights."""
    trains = {schema.digest(config.train): config.train for config in configs}
    adapters = {schema.digest(config.lora): config.lora for config in configs}
    return Subject(
        base=configs[0].model,
        data=configs[0].data,
        store=Path(configs[0].store).absolute(),
        adapters=list(adapters.values()),
        trains=list(trains.values()),
        new_tokens=max(config.verify.new_tokens if config.verify.enabled else 0 for config in configs),
        weights=weights,
        device=None if weights else signature.device_kind(),
    )


def pinned(config: Config, preflight: Preflight) -> Config:
    """The config with what the start of a run shows: a hub model's commit, the model's learning rate, the tracker."""
    model = dataclasses.replace(config.model, revision=preflight.revision or config.model.revision)
    return dataclasses.replace(at_a_rate(config, preflight), model=model, track=recording.settled(config.track))


def at_a_rate(config: Config, preflight: Preflight) -> Config:
    """The config with the model's learning rate where it has none of its own; see `lowrung.config.prior`."""
    prior = preflight.learning_rate * (FULL if config.lora.is_full else 1)
    train = dataclasses.replace(config.train, learning_rate=config.train.learning_rate or prior)
    return dataclasses.replace(config, train=train)


def with_ranks(config: Config, gpus: float) -> Config:
    """The config with the number of its ranks where it has none of its own: one for each GPU of the trial."""
    if config.train.parallel == "none" or config.train.ranks is not None:
        return config
    return dataclasses.replace(config, train=dataclasses.replace(config.train, ranks=int(gpus)))


def run_signature(config: Config, preflight: Preflight, threads: int) -> str:
    """The signature of a run; see `lowrung.config.signature.of`."""
    return signature.of(
        at_a_rate(config, preflight),
        model_fingerprint=preflight.model_fingerprint,
        data_fingerprint=preflight.data_fingerprint,
        threads=threads,
    )


def base_folder(config: Config, preflight: Preflight, threads: int) -> Path:
    """The folder of what is computed once of a run's base and examples, beside the runs that share them."""
    threads_of_each = schema.threads_of_a_rank(config.train, threads)
    key = signature.of_base(config, preflight.data_folder.name, threads_of_each)
    return layout.base_folder(Path(config.store).absolute(), key)


def steps(config: Config, preflight: Preflight) -> int:
    """Optimiser steps of a run. With packing there are fewer, since a row holds several examples."""
    rows = next(split.rows for split in preflight.splits if split.context == "training")
    return schema.total_steps(config.train, rows)
