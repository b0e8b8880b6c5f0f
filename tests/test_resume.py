"""A run that is killed goes on where it was: `python src/train.py` again."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.commands import command, environment, succeeds, train

pytestmark = pytest.mark.slow

SMALL = [
    "model=tiny",
    "data=number_words",
    "data.train_size=64",
    "data.eval_size=8",
    "lora.dropout=0.1",
    "train.max_steps=60",
    "train.eval_steps=20",
    "train.learning_rate=1e-2",
    "verify.prompts=2",
    "verify.new_tokens=2",
]


def killed_after(folder: Path, step: int, *arguments: str) -> None:
    """Starts a command and kills it (SIGKILL) once it has reported a step; the step before is a whole checkpoint."""
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stdout
        assert any(f"step {step}/" in line for line in running.stdout)
        running.kill()


def result(folder: Path) -> dict[str, float]:
    (outcome,) = folder.glob("runs/*/outcome.json")
    metrics: dict[str, float] = json.loads(outcome.read_text())["metrics"]
    return metrics


def tracked(folder: Path, kind: str) -> list[Run]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "lowrung")
    return [run for run in client.search_runs([experiment.experiment_id]) if run.data.tags["lowrung.kind"] == kind]


def steps_of(folder: Path, run: Run, metric: str) -> list[int]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    succeeds(folder, *SMALL, "track=none")
    return result(folder)


def test_a_single_run_goes_on_from_its_checkpoint(tmp_path, undisturbed):
    killed_after(tmp_path, 40, *SMALL)
    assert train(tmp_path, *SMALL, "lora.r=0").returncode == 2  # something wrong typed in between loses nothing
    printed = succeeds(tmp_path, *SMALL)
    assert "going on from step" in printed
    assert result(tmp_path) == undisturbed
    (run,) = tracked(tmp_path, "run")
    assert run.info.status == "FINISHED"
    assert steps_of(tmp_path, run, "eval/loss") == [0, 20, 40, 60]
    assert steps_of(tmp_path, run, "train/loss") == list(range(1, 61))
    assert not list(tmp_path.glob("runs/*/checkpoints"))


def test_a_trial_of_a_sweep_does_too(tmp_path, undisturbed):
    sweep = ["-m", *SMALL, "hydra.launcher.workers=1"]
    killed_after(tmp_path, 40, *sweep)
    succeeds(tmp_path, *sweep)
    assert result(tmp_path) == undisturbed
    (run,) = tracked(tmp_path, "trial")
    assert run.info.status == "FINISHED"
    assert steps_of(tmp_path, run, "train/loss") == list(range(1, 61))


def test_ctrl_c_ends_a_single_run_after_its_step_with_a_checkpoint(tmp_path, undisturbed):
    with subprocess.Popen(
        command(*SMALL), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        assert any("step 0/" in line for line in running.stdout)
        running.send_signal(signal.SIGINT)
        printed, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert "interrupted; the same command goes on from here" in printed
    assert "Traceback" not in errors
    assert "going on from step" in succeeds(tmp_path, *SMALL)
    assert result(tmp_path) == undisturbed
    (run,) = tracked(tmp_path, "run")
    assert run.info.status == "FINISHED"
