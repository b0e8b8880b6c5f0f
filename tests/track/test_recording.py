"""Which store records runs: the settings', else that of MLflow's own environment variables, else mlflow.db."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lowrung.config.schema import Config, TrackConf
from lowrung.store.layout import RunFolder
from lowrung.track import recording

URI, EXPERIMENT, ID = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"


@pytest.fixture
def environment(empty_store, tmp_path, monkeypatch):
    """A store and an experiment of the user's environment; the working folder has none."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "work").mkdir()
    shutil.copy(empty_store, tmp_path / "theirs" / "mlflow.db")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv(URI, "sqlite:///../theirs/mlflow.db")
    monkeypatch.setenv(EXPERIMENT, "mine")
    return tmp_path


def config(**track):
    made = Config(track=TrackConf(**track))
    made.model.path, made.data.name, made.lora.r, made.train.learning_rate = "embedded:tiny", "number_words", 4, 1e-3
    return made


def opened(chosen: Config, folder: Path) -> str:
    """The id of a single run that is opened where a config says."""
    sender = recording.sender(chosen)
    opening = recording.single_opening(chosen, RunFolder(folder))
    return str(recording.first_answer(sender, chosen, sender.send(opening.open, opening.name)))


def test_runs_go_where_the_environment_says_and_it_is_printed(environment, tmp_path, capsys):
    run = opened(config(), tmp_path)
    uri = f"sqlite:///{environment / 'work' / '..' / 'theirs' / 'mlflow.db'}"
    assert capsys.readouterr().out == f"tracking: {uri}, experiment mine\n"
    client = MlflowClient(uri)
    assert client.get_experiment(client.get_run(run).info.experiment_id).name == "mine"
    assert not (environment / "work" / "mlflow.db").exists()


def test_settings_come_before_the_environment(environment, tmp_path, empty_store, capsys):
    shutil.copy(empty_store, environment / "work" / "ours.db")
    ours = config(uri="sqlite:///ours.db", experiment="lowrung")
    run = opened(ours, tmp_path)
    assert capsys.readouterr().out == f"tracking: sqlite:///{environment / 'work' / 'ours.db'}, experiment lowrung\n"
    assert MlflowClient(f"sqlite:///{environment / 'work' / 'ours.db'}").get_run(run)


def test_without_a_tracker_the_environment_says_nothing(environment, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(URI, "./mlruns")
    monkeypatch.setenv(ID, "7")
    monkeypatch.delenv(EXPERIMENT)
    off = config(kind="none")
    assert recording.tracking_problems(off) == []
    assert opened(off, tmp_path) == ""
    assert recording.settled(off.track) == off.track
    assert capsys.readouterr().out == ""


def test_problems_name_the_variable(environment, monkeypatch):
    (environment / "work" / "file").touch()
    monkeypatch.setenv(URI, "sqlite:///file/mlflow.db")
    (problem,) = recording.tracking_problems(config())
    assert problem.startswith(f"{URI} must")
    monkeypatch.delenv(URI)
    assert recording.tracking_problems(config()) == []


@pytest.mark.parametrize(
    ("name", "setting", "is_refused"), [(None, None, True), ("mine", None, False), (None, "x", False)]
)
def test_an_experiment_by_its_id_alone_is_refused(environment, monkeypatch, name, setting, is_refused):
    monkeypatch.setenv(ID, "7")
    monkeypatch.delenv(EXPERIMENT)
    if name:
        monkeypatch.setenv(EXPERIMENT, name)
    problems = recording.tracking_problems(config(experiment=setting))
    assert [ID in problem for problem in problems] == [True] * is_refused
