"""Sweeps in a folder of their own; see `tests.stage` for what is simulated."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from lowrung.sweeps import plots
from lowrung.track import recording
from lowrung.track.sender import Sender
from tests import composing
from tests.composing import Composer
from tests.stage import Stage


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with composing.composer() as made:
        yield made


@pytest.fixture(scope="package")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "study.db"
    RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def here(composer: Composer, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage in a folder with a space in its name."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    made = Stage(composer, empty_database)
    monkeypatch.setattr(recording, "sender", lambda config, **_: Sender(lambda: made.tracker))
    monkeypatch.setattr(plots, "drawn", lambda folder: [])  # they take a second; see test_plots.py
    return made
