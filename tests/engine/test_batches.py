"""Hydra's own launchers below lowrung's sweeper: batches, with all else as ever."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lowrung.engine.batches import BatchEngine
from tests.terminal import command, environment
from tests.warm import run, train

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


FORKS = """
import os, pathlib, runpy, sys
from joblib.externals.loky.backend.context import set_start_method

set_start_method("forkserver")
sys.argv = sys.argv[1:]
sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # of the fork server
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a command whose joblib forks its processes, where it would start them: each would import all anew."""


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
    arguments = command(*SMALL, f"lora.r={','.join(map(str, ranks))}", *launcher)[1:]
    done = run(["-c", FORKS, *arguments], tmp_path, environment())
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout
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
