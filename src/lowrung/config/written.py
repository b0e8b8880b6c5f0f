"""A config as the text of a file."""

import dataclasses
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf._utils import get_omega_conf_dumper

from lowrung.config.schema import Config

_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]
    """Writes as OmegaConf does, a text that could be a number in quotes; in C where PyYAML was built with it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


def yaml_of(config: Config) -> str:
    """The config as YAML, for `OmegaConf.load`. OmegaConf's own way takes 7 ms, this one 1."""
    values = dataclasses.asdict(config)
    text: str = yaml.dump(values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text
