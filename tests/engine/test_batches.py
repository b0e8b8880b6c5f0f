"""Hydra's own launchers below lowrung's sweeper: batches, with all else as ever."""

import json
from pathlib import Path

import pytest

from lowrung.engine.batches import BatchEngine
from tests.commands import succeeds, train

SMALL = [
    "-m",
    "model=tiny",
    "data=number_words",
    "data.train_size=32",
    "data.eval_size=8",
    "train=smoke",
    "verify=none",
    "track=none",
    "lora.r=2,4,8",
    "study=s",
]


class TwoAtOnce:
    """What of joblib's launcher the engine looks at."""

    joblib = {"n_jobs": 2}  # noqa: RUF012


def test_the_size_of_a_batch_is_the_launchers():
    nothing: object = object()
    assert BatchEngine(TwoAtOnce()).slots == 2  # type: ignore[arg-type]
    assert BatchEngine(nothing).slots == 1  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [["hydra/launcher=basic"], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_a_sweep_of_batches(tmp_path, launcher):
    printed = succeeds(tmp_path, *SMALL, *launcher)
    assert "3 trials, 0 done before" in printed
    board = json.loads((tmp_path / "multirun" / "s" / "leaderboard.json").read_text())
    assert [row["status"] for row in board] == ["complete"] * 3
    assert {Path(row["runs"][0]["results"]) for row in board} == {
        (tmp_path / "multirun" / "s" / str(number) / "run").resolve() for number in range(3)
    }
    assert "3 trials, 3 done before" in succeeds(tmp_path, *SMALL, *launcher)


@pytest.mark.slow
def test_a_pruner_is_refused_since_nothing_can_be_stopped(tmp_path):
    ended = train(tmp_path, *SMALL, "hydra/launcher=basic", "hydra/sweeper/pruner=asha", "train.eval_steps=1")
    assert ended.returncode == 2
    assert "hydra/sweeper/pruner=asha must be able to stop a run, but hydra/launcher is BasicLauncher" in ended.stderr
