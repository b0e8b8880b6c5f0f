"""The names of settings: which there are, and which one was meant by a name that is none."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from lowrung.config.schema import Config
from lowrung.errors import did_you_mean

SPELLINGS = {
    **{"rank": "lora.r", "lr": "train.learning_rate", "steps": "train.max_steps", "rslora": "lora.use_rslora"},
    **{name: f"train.sft.{name}" for name in ("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "warmup_steps")},
}
"""What people type when they mean a setting whose name looks different."""


def is_declared(key: str) -> bool:
    """Whether a key is one of our settings, or a group of them."""
    return any(known == key or known.startswith(f"{key}.") for known in declared(Config))


def declared(kind: Any) -> Iterator[str]:
    """Dotted names of all that a config dataclass declares."""
    yield from types(kind)


def types(kind: Any, prefix: str = "") -> dict[str, Any]:
    """The annotated type of all that a config dataclass declares, by dotted names."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found |= types(field.type, f"{prefix}{field.name}.")
        else:
            found[f"{prefix}{field.name}"] = field.type
    return found


def suggest_key(key: str, keys: Sequence[str]) -> str:
    """The setting that was meant, as the end of a message; else where all of them are listed."""
    last = key.rsplit(".", 1)[-1]
    same_name = [known for known in keys if known.rsplit(".", 1)[-1] == last]
    if last in SPELLINGS or same_name:
        return f" Did you mean {SPELLINGS.get(last) or same_name[0]}?"
    return did_you_mean(key, keys) or " `lowrung train --help` lists all settings."
