"""Configs that differ in single values are composed once and copied: Hydra takes some 90 ms each, a copy a tenth."""

import copy
import functools
import pickle
from collections.abc import Callable, Sequence

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lowrung.config.commandline import COMPOSITION_ERRORS


class Templates:
    """Composes jobs' configs as `ConfigLoader.load_sweep_config` does.

    Hydra composes the groups first, and then sets plain values, ``key=value``. So jobs that choose the same groups
    share a template, which is composed of the groups alone. It is copied, and the values are set in the copy. Any
    other override (a value that is added, deleted or refused) is left to Hydra.

    Args:
        loader: Hydra's.
        master: the sweep's config.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._parser = OverridesParser.create()
        self._known: dict[tuple[str, ...], Callable[[], DictConfig]] = {}
        self._groups: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """A job's config, Hydra's node included.

        Raises:
            HydraException: when Hydra refuses an override.
        """
        try:
            parsed = self._parser.parse_overrides(list(overrides))
            if all(self._is_plain(override) for override in parsed):
                return self._filled(parsed)
        except COMPOSITION_ERRORS:
            pass  # Hydra's own composition raises the better error
        return self._loader.load_sweep_config(self._master, list(overrides))

    def _is_plain(self, override: Override) -> bool:
        """Whether it chooses a group's config or sets a value, in the job's part of the config."""
        is_change = not (override.is_add() or override.is_force_add() or override.is_delete())
        return is_change and override.package is None and not override.is_hydra_override()

    def _is_group(self, override: Override) -> bool:
        name = override.key_or_group
        if name not in self._groups:
            self._groups[name] = bool(self._loader.get_group_options(name))
        return self._groups[name]

    def _filled(self, parsed: Sequence[Override]) -> DictConfig:
        """The template of these groups with these values."""
        filled = self._template([override for override in parsed if self._is_group(override)])()
        for override in parsed:
            if not self._is_group(override):
                OmegaConf.update(filled, override.key_or_group, override.value(), merge=True)
        filled.hydra.overrides.task = [override.input_line for override in parsed]
        wording = filled.hydra.job.config.override_dirname
        filled.hydra.job.override_dirname = get_overrides_dirname(
            overrides=list(parsed),
            kv_sep=wording.kv_sep,
            item_sep=wording.item_sep,
            exclude_keys=wording.exclude_keys,
        )
        OmegaConf.copy_cache(from_config=self._master, to_config=filled)
        return filled

    def _template(self, groups: Sequence[Override]) -> Callable[[], DictConfig]:
        chosen = tuple(override.input_line or "" for override in groups)
        if chosen not in self._known:
            self._known[chosen] = _copier(self._loader.load_sweep_config(self._master, list(chosen)))
        return self._known[chosen]


def _copier(config: DictConfig) -> Callable[[], DictConfig]:
    """A function that makes copies: by pickle, in a sixth of deepcopy's time, unless Hydra imported a plugin twice."""
    try:
        return functools.partial(pickle.loads, pickle.dumps(config))
    except pickle.PicklingError:
        return functools.partial(copy.deepcopy, config)
