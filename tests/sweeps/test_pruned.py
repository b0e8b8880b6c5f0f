"""Trials that are pruned, through the command that users type.

That the same study keeps them and another one takes them up is in tests/sweeps/test_resume.py. That their runs then go
on from their checkpoints is in tests/runs/test_execution.py.
"""

import json

import pytest
from mlflow import MlflowClient
from optuna import load_study
from optuna.trial import TrialState

from tests.warm import succeeds

pytestmark = pytest.mark.slow

SWEEP = [
    "-m",
    "study=pruned",
    "hydra/sweeper/pruner=asha",
    "model=tiny",
    "data=number_words",
    "data.train_size=64",
    "data.eval_size=8",
    "train.max_steps=80",  # so many that a busy coordinator can stop a run in time
    "train.eval_steps=10",
    "verify=none",
    "train.learning_rate=3e-2,1e-6",
]


def test_a_pruned_trial_is_a_result_of_its_study(tmp_path):
    printed = succeeds(tmp_path, *SWEEP)
    assert "trial 1 (train.learning_rate=1e-06): pruned: stopped at step" in printed
    study = load_study(study_name="pruned", storage=f"sqlite:///{tmp_path / 'multirun' / 'pruned' / 'study.db'}")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    pruned = json.loads((tmp_path / "multirun" / "pruned" / "1" / "run" / "outcome.json").read_text())
    assert pruned["status"] == "pruned"
    assert {"base/eval_loss", "eval/loss"} <= pruned["metrics"].keys()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert all(run.info.status != "RUNNING" for run in runs)
