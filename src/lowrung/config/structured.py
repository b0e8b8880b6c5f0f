"""The schema as Hydra's structured config: composed and recorded configs become its dataclasses."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf, open_dict

from lowrung.config import resolvers, truth
from lowrung.config.interpolation import own_hydra_node
from lowrung.config.schema import PARTS, Config
from lowrung.errors import UsageError

T = TypeVar("T")


def register() -> None:
    """Makes the schema known to Hydra, and lowrung's resolvers to OmegaConf. Calling it again does no harm."""
    node = truth.structured(Config)
    for options in (node.lora.peft, node.train.sft):  # any field of a library's dataclass is a key
        OmegaConf.set_struct(options, False)
    ConfigStore.instance().store(name="schema", node=node, provider="lowrung")
    resolvers.register()


def resolve(config: Any) -> Config:
    """Turns a composed Hydra config, with or without Hydra's own node, into plain dataclasses.

    A config that was recorded has values alone. It is held to the schema here: a setting that it lacks has the schema's
    default, and one that the schema lacks is an error.

    Raises:
        ValueError: when a setting was taken out of it.
        UsageError: when a recorded config was given a group's choice.
        OmegaConfBaseException: when a value does not fit, or cannot be found.
    """
    with own_hydra_node(config):
        ours = {str(name): config._get_node(name) for name in config if name != "hydra"}
        names = [field.name for field in dataclasses.fields(Config)]
        is_recorded = any(OmegaConf.get_type(ours[part]) is dict for part in PARTS if part in ours)
        if not is_recorded and (absent := [name for name in names if name not in ours]):
            raise ValueError(f"{', '.join(absent)} must have values, but have none")
        source = _held_to_the_schema(config, ours) if is_recorded else config
        values: dict[str, Any] = {}
        for name in dict.fromkeys([*names, *ours]):
            value = source[name]
            values[name] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    plain = Config(**{name: values.pop(name) for name in names})
    for name, value in values.items():  # added with a plus; `lowrung.config.rules` refuses it
        setattr(plain, name, value)
    return plain


def _held_to_the_schema(config: Any, ours: Mapping[str, Any]) -> Any:
    """A config of values alone with the schema's types; interpolations are still to be resolved."""
    declared = {field.name for field in dataclasses.fields(Config)}
    if choices := [part for part in PARTS if part in ours and not OmegaConf.is_dict(ours[part])]:
        raise UsageError(
            f"{', '.join(choices)} must be set by settings, such as {choices[0]}.NAME=VALUE, since a recorded config"
            " has values and no groups to choose from."
        )
    known = OmegaConf.create({name: ours[name] for name in ours if name in declared})
    held: Any = OmegaConf.merge(truth.structured(Config), known)
    with open_dict(held):
        for name in ours.keys() - declared:
            held[name] = ours[name]
    OmegaConf.copy_cache(from_config=config, to_config=held)
    return held


def typed(kind: type[T], values: Mapping[str, Any]) -> T:
    """A part of a config from plain values, such as those in the ``config.yaml`` of a run's folder.

    Args:
        kind: the part's dataclass.
        values: by the names of its fields; what is absent takes its default.
    """
    part: T = OmegaConf.to_object(OmegaConf.merge(truth.structured(kind), values))  # type: ignore[assignment]
    return part
