"""Hydra's own launchers below lowrung's sweeper: batches, with all else as ever."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lowrung.engine.batches import BatchEngine
from tests.warm import succeeds, train

SMALL = [
    "-m",
    "model=tiny",
    "data=number_words",
    "data.train_size=32",
    "data.eval_size=8",
    "train=smoke",
    "verify=none",
    "track=none",
    "study=s",
]


class TwoAtOnce:
    """What of joblib's launcher the engine looks at."""

    joblib = {"n_jobs": 2}  # noqa: RUF012


def test_the_size_of_a_batch_is_the_launchers():
    nothing: object = object()
    assert BatchEngine(TwoAtOnce(), OmegaConf.create()).slots == 2  # type: ignore[arg-type]
    assert BatchEngine(nothing, OmegaConf.create()).slots == 1  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "ranks"),
    [
        pytest.param(["hydra/launcher=basic"], [2, 4], id="one after the other"),
        pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], [2, 4, 8], id="two at once, then one"),
    ],
)
def test_a_sweep_of_batches(tmp_path, launcher, ranks):
    printed = succeeds(tmp_path, *SMALL, f"lora.r={','.join(map(str, ranks))}", *launcher)
    assert f"{len(ranks)} trials, 0 done before" in printed
    board = json.loads((tmp_path / "multirun" / "s" / "leaderboard.json").read_text())
    assert [row["status"] for row in board] == ["complete"] * len(ranks)
    assert {Path(row["runs"][0]["results"]) for row in board} == {
        (tmp_path / "multirun" / "s" / str(number) / "run").resolve() for number in range(len(ranks))
    }


@pytest.mark.slow
def test_a_pruner_is_refused_since_nothing_can_be_stopped(tmp_path):
    ended = train(
        tmp_path, *SMALL, "lora.r=2,4", "hydra/launcher=basic", "hydra/sweeper/pruner=asha", "train.eval_steps=1"
    )
    assert ended.returncode == 2
    assert "hydra/sweeper/pruner=asha must be able to stop a run, but hydra/launcher is BasicLauncher" in ended.stderr
