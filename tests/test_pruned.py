"""Trials that are pruned, through the command that users type.

That the same study keeps them is in tests/test_sweep.py.
"""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna import load_study
from optuna.trial import TrialState

from tests.commands import succeeds

pytestmark = pytest.mark.slow

SWEEP = [
    "-m",
    "model=tiny",
    "data=number_words",
    "data.train_size=64",
    "data.eval_size=8",
    "train.max_steps=120",  # so long that a busy coordinator, too, can stop a run in time
    "train.eval_steps=15",
    "verify=none",
    "train.learning_rate=3e-2,1e-6",
]
PRUNED = ["hydra/sweeper/pruner=asha", "study=pruned"]


def states(folder: Path) -> list[TrialState]:
    study = load_study(study_name="pruned", storage=f"sqlite:///{folder / 'multirun' / 'pruned' / 'study.db'}")
    return [trial.state for trial in study.trials]


def outcome(folder: Path, study: str, number: int) -> dict[str, object]:
    record: dict[str, object] = json.loads((folder / "multirun" / study / str(number) / "run/outcome.json").read_text())
    return record


def test_a_pruned_trial_is_a_result_of_its_study_and_a_beginning_for_another(tmp_path):
    printed = succeeds(tmp_path, *SWEEP, *PRUNED)
    assert "trial 1 (train.learning_rate=1e-06): pruned: stopped at step" in printed
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.PRUNED]
    pruned = outcome(tmp_path, "pruned", 1)
    assert pruned["status"] == "pruned"
    assert {"base/eval_loss", "eval/loss"} <= pruned["metrics"].keys()  # type: ignore[attr-defined]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert all(run.info.status != "RUNNING" for run in runs)

    succeeds(tmp_path, *SWEEP, "study=whole", "track=none")
    assert outcome(tmp_path, "whole", 1)["status"] == "complete"
    log = (tmp_path / "multirun" / "whole" / "1" / "run" / "log.txt").read_text()
    assert "going on from step" in log
