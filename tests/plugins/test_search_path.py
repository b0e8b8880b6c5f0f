"""The presets' way into Hydra. (The configs of Hydra's own suite for config sources are not in its wheel.)"""

import shutil
from pathlib import Path

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

from hydra_plugins.lowrung.search_path import LowrungSearchPath, SweepsSource
from lowrung.store.layout import ROOT


@pytest.fixture
def source(tmp_path: Path) -> SweepsSource:
    """A checkout with presets, one of them in a folder, and with much else."""
    for name in ("sweeps/ladder.yaml", "sweeps/deep/one.yaml", "conf/lora/default.yaml", "top.yaml", ".venv/x/y.yaml"):
        path = tmp_path / "a folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# @package _global_\nseed: 7\n")
    return SweepsSource(provider="lowrung", path=f"sweeps://{tmp_path / 'a folder'}")


def test_hydra_finds_both():
    plugins = Plugins.instance()
    assert SweepsSource.__name__ in [plugin.__name__ for plugin in plugins.discover(ConfigSource)]
    assert LowrungSearchPath.__name__ in [plugin.__name__ for plugin in plugins.discover(SearchPathPlugin)]


class TestSweepsSource:
    def test_shows_sweeps_alone(self, source):
        assert source.available()
        assert source.list("", None) == source.list("/", ObjectType.GROUP) == ["sweeps"]
        assert source.list("", ObjectType.CONFIG) == []
        assert source.is_group("")
        assert source.is_group("sweeps")
        assert source.is_group("sweeps/deep")

    @pytest.mark.parametrize("path", ["conf", "conf/lora", ".venv", ".venv/x", "sweeps/ladder", "sweeps2"])
    def test_other_folders_are_no_groups(self, source, path):
        assert not source.is_group(path)

    @pytest.mark.parametrize("path", ["top", "conf/lora/default", ".venv/x/y", "sweeps", "sweeps/absent"])
    def test_other_files_are_no_configs(self, source, path):
        assert not source.is_config(path)

    def test_presets_are_listed_and_load(self, source):
        assert source.is_config("sweeps/ladder")
        assert source.list("sweeps", ObjectType.CONFIG) == ["ladder"]
        assert sorted(source.list("sweeps", None)) == ["deep", "ladder"]
        loaded = source.load_config("sweeps/ladder")
        assert loaded.config == {"seed": 7}
        assert loaded.header["package"] == "_global_"
        assert source.is_config("sweeps/deep/one")

    def test_a_folder_that_is_gone_is_not_available(self, source, tmp_path):
        shutil.rmtree(tmp_path / "a folder")
        assert not source.available()


class TestSearchPath:
    @staticmethod
    def extended(*paths: str) -> list[tuple[str, str]]:
        search_path = ConfigSearchPathImpl()
        for path in paths:
            search_path.append("main", path)
        LowrungSearchPath().manipulate_search_path(search_path)
        return [(element.provider or "", element.path or "") for element in search_path.get_path()]

    def test_our_own_configs_get_the_presets(self):
        conf = f"file://{ROOT / 'conf'}"
        assert self.extended("pkg://hydra.conf", conf)[-1] == ("lowrung", f"sweeps://{ROOT}")

    @pytest.mark.parametrize("path", ["file:///elsewhere/conf", "pkg://somebody.conf", f"file://{ROOT}"])
    def test_other_apps_are_left_alone(self, path):
        assert self.extended(path) == [("main", path)]
