"""Help is Hydra's, to the letter, without what makes Hydra slow."""

from pathlib import Path

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.utils import get_args_parser

from lowrung.config import hydra_app


def hydras_own(arguments: list[str]) -> None:
    parser = get_args_parser()
    typed = parser.parse_args(arguments)
    with hydra_app.hydra_app(typed.config_dir) as hydra:
        hydra.config_loader = ConfigLoaderImpl(hydra.config_loader.get_search_path())
        hydra.app_help("config", parser, typed)


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A user's folder of configs, with a group that lowrung does not have and a choice of one that it has."""
    for name in ("experiment/mine.yaml", "lora/wide.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("# @package _global_\nseed: 7\n")
    return str(tmp_path)


@pytest.mark.slow
def test_help_is_as_hydra_shows_it_without_a_copy_of_all_configs_for_each_group(mine, capsys, monkeypatch):
    typed = ["--help", "--config-dir", mine, "lora.r=3"]
    hydras_own(typed)
    expected = capsys.readouterr().out
    assert "experiment: mine" in expected
    copies = []

    class Counted(CachingConfigRepository):
        def __init__(self, delegate):
            copies.append(delegate)
            super().__init__(delegate)

    monkeypatch.setattr(config_loader_impl, "CachingConfigRepository", Counted)
    assert hydra_app.show_help(typed)
    assert capsys.readouterr().out == expected
    assert len(copies) == 1  # one to compose the config that is shown


@pytest.mark.parametrize("typed", [[], ["-m", "lora.r=4,8"], ["--cfg", "job"], ["--help", "--config-path", "conf"]])
def test_the_rest_is_left_to_hydra(typed, capsys):
    assert not hydra_app.show_help(typed)
    assert capsys.readouterr().out == ""
