"""MLflow's ids of runs, as the commands take them."""

import shutil

import pytest

from lowrung.__main__ import main
from lowrung.store.outcome import Status
from lowrung.track.mlflow import MlflowTracker


@pytest.fixture
def ids(here, store):
    """MLflow's ids of the runs, by signature."""
    tracker = MlflowTracker(store, "lowrung")
    ids = {}
    for signature in ("ab12", "cd34"):
        ids[signature] = tracker.start_run(signature, tags={"lowrung.results": str(here / "runs" / signature)})
        tracker.end_run(ids[signature], Status.COMPLETE)
    return ids


@pytest.mark.slow
def test_a_run_is_named_by_its_id(here, ids, capsys):
    main(["inspect", ids["ab12"]])
    assert capsys.readouterr().out.splitlines()[0] == f"adapter     {here / 'runs' / 'ab12' / 'adapter'}"
    main(["compare", ids["ab12"], "mine/1"])
    assert "lora.alpha" in capsys.readouterr().out


@pytest.mark.slow
def test_the_store_may_be_elsewhere(here, ids, monkeypatch, capsys):
    (here / "mlflow.db").rename(here / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here / 'other.db'}")
    main(["inspect", ids["ab12"]])
    assert "run         ab12, complete" in capsys.readouterr().out


def test_an_unknown_one_and_a_store_that_is_missing(here, ids, refused):
    unknown = "0" * 32
    message = refused("compare", unknown, ids["ab12"])
    assert f"{unknown} must be a run in sqlite:///{here / 'mlflow.db'}, but there is none." in message
    (here / "mlflow.db").unlink()
    message = refused("merge", unknown, "--to", "m")
    assert f"{unknown} looks like a run of MLflow, but sqlite:///{here / 'mlflow.db'} does not answer" in message


def test_a_sweep_and_a_run_whose_results_are_gone(here, store, ids, refused):
    sweep = MlflowTracker(store, "lowrung").start_run("mine", tags={"lowrung.kind": "sweep"})
    assert "is a whole sweep. Name one of its trials." in refused("inspect", sweep)
    shutil.rmtree(here / "runs" / "ab12")
    message = refused("inspect", ids["ab12"])
    assert f"but {here / 'runs' / 'ab12'} is gone. Run it again" in message
