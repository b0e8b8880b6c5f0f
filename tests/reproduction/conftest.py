"""A run of the tiny model on a file of rows, as `python src/train.py` leaves it; trained once for all tests here."""

import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from lowrung.config import rules
from lowrung.runs import inputs, single
from lowrung.store import layout
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Status
from tests import composing
from tests.sources import pairs, write_rows

SETTINGS = (
    *("model=tiny", "data=file", "data.path=rows.jsonl", "data.eval_size=8", "data.max_length=128", "lora.r=2"),
    *("train.max_steps=4", "train.eval_steps=2", "train.batch_size=4", "train.learning_rate=1e-2", "verify=none"),
    *("data.metrics=[exact_match]", "track=none", "store=runs"),
)


def train(folder: Path, *, stops: int = 0) -> RunFolder:
    """Trains the run in a folder with rows.jsonl, stopped so often after a step, and gone on with."""
    with composing.composer() as composer, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = composer.config(*SETTINGS)
        assert not rules.problems(config)
        preflight = inputs.preflight(config)
        assert not preflight.problems
        config = inputs.pinned(config, preflight)
        run = layout.run_folder(folder / "runs", inputs.run_signature(config, preflight, 1))
        for start in range(stops + 1):
            signals = Mock(is_to_stop=start < stops)
            outcome = single.train(config, run, preflight, 1, signals)
            assert outcome.status is (Status.CANCELLED if signals.is_to_stop else Status.COMPLETE)
    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with rows.jsonl and runs/."""
    folder = tmp_path_factory.mktemp("recorded") / "here"
    folder.mkdir()
    write_rows(folder / "rows.jsonl", pairs(24))
    train(folder)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of it to work in."""
    folder = tmp_path / "here"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(here):
    """The run's folder."""
    (config,) = here.glob("runs/*/config.yaml")
    return RunFolder(config.parent)
