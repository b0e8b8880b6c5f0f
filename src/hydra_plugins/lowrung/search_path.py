"""Makes the presets in sweeps/ visible to Hydra, and nothing else of the folder that they stand in.

Hydra offers files of any folder on its search path as config groups. With the checkout on that path, ``--help``
walks .venv (measured: 291 s) and lists site-packages; hence a source of our own that shows one folder.
"""

import os
from typing import List, Optional  # noqa: UP035  (as Hydra spells its interface)

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lowrung.store.layout import ROOT


class SweepsSource(FileConfigSource):
    """A checkout seen through a keyhole: the group ``sweeps`` and what is in it."""

    @staticmethod
    def scheme() -> str:
        """See Hydra's `ConfigSource`."""
        return "sweeps"

    def _shows(self, config_path: str) -> bool:
        return config_path.replace(os.sep, "/").split("/")[0] in ("", "sweeps")

    def is_group(self, config_path: str) -> bool:
        """See Hydra's `ConfigSource`."""
        return self._shows(config_path) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """See Hydra's `ConfigSource`."""
        return self._shows(config_path) and "/" in config_path and super().is_config(config_path)

    def list(self, config_path: str, results_filter: Optional[ObjectType]) -> List[str]:  # noqa: UP006, UP045
        """See Hydra's `ConfigSource`."""
        if config_path in ("", "/"):
            return [] if results_filter == ObjectType.CONFIG else ["sweeps"]
        return super().list(config_path, results_filter)


class LowrungSearchPath(SearchPathPlugin):
    """Adds `SweepsSource` where lowrung's own conf/ is the main source; other Hydra apps are left alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See Hydra's `SearchPathPlugin`."""
        if any(
            (element.path or "").removeprefix("file://") == str(ROOT / "conf") for element in search_path.get_path()
        ):
            search_path.append("lowrung", f"sweeps://{ROOT}")
