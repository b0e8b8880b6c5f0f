"""A single run that is stopped or killed goes on where it was: `python src/train.py` again.

tests/test_commands.py stops a sweep, tests/sweeps/test_chaos.py kills one.
"""

import json
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.warm import signalled, succeeds, train

pytestmark = pytest.mark.slow

SMALL = [
    "model=tiny",
    "data=number_words",
    "data.train_size=64",
    "data.eval_size=8",
    "lora.dropout=0.1",
    "train.max_steps=24",
    "train.eval_steps=8",
    "train.learning_rate=1e-2",
    "verify.prompts=2",
    "verify.new_tokens=2",
]


def result(folder: Path) -> dict[str, float]:
    (outcome,) = folder.glob("runs/*/outcome.json")
    metrics: dict[str, float] = json.loads(outcome.read_text())["metrics"]
    return metrics


def seconds_of_reports(folder: Path) -> list[float]:
    (reports,) = folder.glob("runs/*/reports.jsonl")
    return [json.loads(line)["seconds"] for line in reports.read_text().splitlines()]


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


def test_a_single_run_goes_on_where_it_was_stopped_and_where_it_was_killed(tmp_path, undisturbed):
    stopped = signalled(tmp_path, "step 0/", signal.SIGTERM, *SMALL)
    assert stopped.returncode == 143, stopped.stderr
    assert "interrupted; the same command goes on from here" in stopped.stdout
    assert "Traceback" not in stopped.stderr
    (run,) = tracked(tmp_path, "run")
    assert run.info.status == "KILLED"
    killed = signalled(tmp_path, "step 16/", signal.SIGKILL, *SMALL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "going on from step 1\n" in killed.stdout
    assert train(tmp_path, *SMALL, "lora.r=0").returncode == 2  # something wrong typed in between loses nothing
    assert "going on from step 8\n" in succeeds(tmp_path, *SMALL)
    assert result(tmp_path) == undisturbed
    (run,) = tracked(tmp_path, "run")
    assert run.info.status == "FINISHED"
    assert steps_of(tmp_path, run, "eval/loss") == [0, 1, 8, 16, 24]  # 1: where it was stopped
    assert steps_of(tmp_path, run, "train/loss") == list(range(1, 25))
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/outcome.json"))
    took, parts = record["measurements"], record["facts"]["parts"]
    assert len(parts) == 3  # it was stopped, then killed, and then came to its end
    assert took["time/total_seconds"] == pytest.approx(sum(seconds for _, seconds in parts))
    assert took["time/total_seconds"] > took["time/train_seconds"] > 0
    assert run.data.metrics["time/total_seconds"] == took["time/total_seconds"]
    seconds = seconds_of_reports(tmp_path)
    assert seconds == sorted(seconds)
    # What was reported before the checkpoint has its own time, and what came after it that of the earlier parts too.
    before = sum(seconds for _, seconds in parts[:2])
    assert seconds[0] < parts[0][1] < before < seconds[-1] < took["time/total_seconds"]
    assert not list(tmp_path.glob("runs/*/earlier.jsonl"))
    assert not list(tmp_path.glob("runs/*/checkpoints"))
