"""Studies in a real database."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lowrung.search.space import parse
from lowrung.search.study import Study

MIXED = ("lora.r=4,8", "train.learning_rate=tag(log,interval(1e-5,1e-1))")
LOSS = {"eval/loss": "minimize"}

Opener = Callable[..., Study]


def waits_by(monkeypatch: pytest.MonkeyPatch, module: str, wait: Callable[..., object]) -> None:
    """Puts something in the place of a module's own `time.sleep`."""
    monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=wait, monotonic=time.monotonic, time=time.time))


@pytest.fixture(scope="package")
def database(tmp_path_factory) -> Path:
    """One for all tests, each with studies of its own: to make a database takes a third of a second."""
    folder: Path = tmp_path_factory.mktemp("a folder")
    return folder / "not yet" / "study.db"


@pytest.fixture
def opened(database: Path, request: pytest.FixtureRequest) -> Opener:
    """Opens a study of this test, anew each time; what is named is `Study`'s."""

    def open_study(
        *overrides: str, objectives: Mapping[str, str] = LOSS, seed: int = 0, name: str = "study", **named: Any
    ) -> Study:
        space = parse(overrides or MIXED, OverridesParser.create())
        full_name = f"{request.node.nodeid} {name}"
        return Study(full_name, storage=f"sqlite:///{database}", space=space, objectives=objectives, seed=seed, **named)

    return open_study
