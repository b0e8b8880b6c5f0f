"""The command line before Hydra reads it: configs that were recorded, and names that read as numbers."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from lowrung.config import grammar
from lowrung.config.hydra_app import CONFIG_NAME
from lowrung.errors import UsageError
from lowrung.store.layout import ROOT

OUTER = ("hydra/sweeper", "hydra/launcher")
"""Groups whose defaults in Hydra are other than lowrung's."""


def prepared(arguments: Sequence[str]) -> list[str]:
    """The arguments that Hydra is to read.

    ``--config-path`` is taken from the working folder. A config that says nothing of sweeper and launcher, such as one
    that Hydra recorded in a job's ``.hydra``, gets lowrung's, and its job goes where others go.

    Args:
        arguments: as typed, after the program's name.

    Raises:
        UsageError: when the config that is named would not be the one that Hydra takes.
    """
    typed = get_args_parser().parse_args(arguments)
    made = [grammar.as_typed(text) if text in typed.overrides else text for text in arguments]
    if typed.config_path is not None and "://" not in typed.config_path:
        path = _found(typed.config_path)
        made = [_with_path(text, typed.config_path, path) for text in made]
        typed.config_path = str(path)
    file = _config_file(typed)
    return made if file is None else [*made, *_outer(file, typed.overrides)]


def _found(config_path: str) -> Path:
    path = Path(config_path).expanduser().absolute()
    if not path.is_dir():
        raise UsageError(f"--config-path must be a folder with configs, but {path} is not a folder.")
    return path


def _with_path(argument: str, typed: str, path: Path) -> str:
    """``--config-path=X`` or its ``X`` alone, with the absolute path."""
    option, equals, value = argument.partition("=")
    if argument == typed:
        return str(path)
    return f"{option}={path}" if equals and value == typed and option.startswith("-") else argument


def _config_file(typed: argparse.Namespace) -> Path | None:
    """The root config that is not lowrung's own.

    Raises:
        UsageError: when it is one of a folder that only adds to lowrung's.
    """
    name = typed.config_name or CONFIG_NAME
    file = f"{name.removesuffix('.yaml')}.yaml"
    if typed.config_path is not None:
        path = Path(typed.config_path.removeprefix("file://"), file)
        return path if path.is_file() else None
    if typed.config_name is None or typed.config_dir is None:
        return None
    path = Path(typed.config_dir, file)
    if path.is_file() and (ROOT / "conf" / file).is_file():
        raise UsageError(
            f"--config-dir adds to lowrung's own configs, so --config-name={name} is lowrung's {file}, and not {path}."
            f" Write --config-path {typed.config_dir} --config-name {name} to take that one instead."
        )
    return path if path.is_file() else None


def _outer(file: Path, overrides: Sequence[str]) -> Iterator[str]:
    """Overrides for what a root config leaves to Hydra's defaults, and lowrung's own config does not."""
    try:
        config: Any = OmegaConf.load(file)
    except (OmegaConfBaseException, YAMLError):  # Hydra's error is the better one
        return
    ours: Any = OmegaConf.load(ROOT / "conf" / f"{CONFIG_NAME}.yaml")
    text = file.read_text(encoding="utf-8")
    for group in OUTER:
        if group not in text and not any(override.lstrip("+").startswith(f"{group}=") for override in overrides):
            choice = next(entry[f"override {group}"] for entry in ours.defaults if f"override {group}" in entry)
            yield f"{group}={choice}"
    if OmegaConf.is_dict(config) and "defaults" not in config and "hydra" not in config:
        folders = {"hydra.run.dir": ours.hydra.run, "hydra.sweep.dir": ours.hydra.sweep}
        for key, node in folders.items():
            if not any(override.startswith(f"{key}=") for override in overrides):
                yield f"{key}={grammar.quote(node._get_node('dir')._value())}"
