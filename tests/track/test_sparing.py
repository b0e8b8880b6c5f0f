"""The sparing tracker keeps the same contract as MLflow's, and asks that one only for what its file lacks."""

import shutil
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow import MlflowClient

from lowrung.store import addresses
from lowrung.store.outcome import Status
from lowrung.track.base import Child, Point, Tracker, store_uri
from lowrung.track.mlflow import MlflowTracker
from lowrung.track.pages import View
from lowrung.track.sparing import SparingTracker
from tests.track.test_mlflow import TestMlflowTracker as _OfMlflow

VIEW = View(["lora.r"], {"eval/loss": "minimize"})


class Anew:
    """Asks the file before each call, as if nothing had been changed by this process."""

    def __init__(self, uri):
        self.mlflow = MlflowTracker(uri, "lowrung")
        self._client, self._experiment = self.mlflow._client, self.mlflow._experiment
        path = addresses.sqlite_path(uri)
        assert path is not None
        self._path = path

    def __getattr__(self, name):
        return getattr(SparingTracker(self._path, "lowrung", lambda: self.mlflow), name)


@pytest.mark.slow
class TestSparingTracker(_OfMlflow):
    @pytest.fixture
    def tracker(self, uri):
        return Anew(uri)

    def reopened(self, tracker):
        return Anew(tracker._client.tracking_uri)

    def read(self, tracker, run):
        return super().read(tracker.mlflow, run)


@pytest.fixture(scope="module")
def tracked(empty_store, tmp_path_factory):
    """A folder with a store, in which a sweep with one trial has all."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "leaderboard.json").write_text("[]")
    _record(MlflowTracker(store_uri(None, folder), "lowrung"), folder)
    return folder


@pytest.fixture
def folder(tracked, tmp_path):
    """A copy of it; its artifacts lie where they lay."""
    shutil.copytree(tracked, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _record(tracker: Tracker, folder: Path) -> dict[str, Child]:
    """All that a sweep of which all is known has to say, and what it is told of its trials."""
    sweep = tracker.start_run("words", key="ab", params={"lora.r": "2, 4"}, tags={"lowrung.kind": "sweep"})
    tracker.present(sweep, VIEW)
    if not tracker.children(sweep):
        trial = tracker.start_run("lora.r=2", parent=sweep, key=f"{sweep}/0")
        tracker.set_tags(trial, {"lowrung.signature": "cd12"})
        tracker.end_run(trial, Status.COMPLETE)
    children = dict(tracker.children(sweep))
    tracker.log(sweep, [Point(1, 2.0, {"eval/loss": 3.0})])
    tracker.set_tags(sweep, {"lowrung.best": "lora.r=2", "mlflow.note.content": "x" * 9000})
    tracker.log_artifact(sweep, folder / "leaderboard.json")
    tracker.end_run(sweep, Status.COMPLETE)
    return children


def _sparing(folder: Path, experiment: str = "lowrung") -> tuple[SparingTracker, list[str]]:
    """The tracker, and what says whether it has asked MLflow."""
    asked: list[str] = []

    def connect() -> Tracker:
        asked.append(experiment)
        return MlflowTracker(store_uri(None, folder), "lowrung")

    return SparingTracker(folder / "mlflow.db", experiment, connect), asked


def _sql(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / "mlflow.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def test_what_is_there_is_not_asked_of_mlflow_and_stays_as_it_is(folder):
    before = (folder / "mlflow.db").read_bytes()
    tracker, asked = _sparing(folder)
    children = _record(tracker, folder)
    assert asked == []
    assert [(child.status, child.signature) for child in children.values()] == [(Status.COMPLETE, "cd12")]
    assert (folder / "mlflow.db").read_bytes() == before


OF_SWEEP = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'lowrung.key' AND value = 'ab')"


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE {OF_SWEEP}",
        f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE NOT {OF_SWEEP}",
        f"UPDATE runs SET status = 'RUNNING' WHERE {OF_SWEEP}",
        f"UPDATE runs SET experiment_id = 0 WHERE {OF_SWEEP}",
        f"UPDATE runs SET artifact_uri = 's3://elsewhere' WHERE {OF_SWEEP}",
        f"UPDATE tags SET value = 'cancelled' WHERE key = 'lowrung.status' AND {OF_SWEEP}",
        "UPDATE tags SET value = 'lora.r=4' WHERE key = 'lowrung.best'",
        "DELETE FROM tags WHERE key = 'mlflow.note.content'",
        "DELETE FROM params",
        "DELETE FROM metrics",
        "DELETE FROM experiment_tags",
        "UPDATE experiments SET workspace = 'mine'",
        "ALTER TABLE tags RENAME TO labels",
        "ALTER TABLE experiments RENAME TO trials",
    ],
)
def test_what_was_changed_or_deleted_is_mlflows(folder, change):
    _sql(folder, change)
    asked: list[str] = []
    with pytest.raises(_AskedError):
        _record(SparingTracker(folder / "mlflow.db", "lowrung", lambda: _ask(asked)), folder)
    assert asked == ["mlflow"]


class _AskedError(Exception):
    pass


def _ask(asked):
    asked.append("mlflow")
    raise _AskedError


@pytest.mark.parametrize("how", ["no file", "no database", "another experiment", "deleted experiment", "workspace"])
def test_a_store_that_does_not_have_the_experiment_is_mlflows_from_the_start(folder, how, monkeypatch):
    if how == "no file":
        (folder / "mlflow.db").unlink()
    if how == "no database":
        (folder / "mlflow.db").write_text("a text")
    if how == "deleted experiment":
        _sql(folder, "UPDATE experiments SET lifecycle_stage = 'deleted'")
    if how == "workspace":
        monkeypatch.setenv("MLFLOW_WORKSPACE", "mine")
    asked: list[str] = []
    with pytest.raises(_AskedError):
        SparingTracker(folder / "mlflow.db", "other" if how == "another experiment" else "lowrung", lambda: _ask(asked))
    assert (folder / "mlflow.db").exists() is (how != "no file")


def test_a_file_that_was_changed_or_deleted_among_the_artifacts_is_recorded_again(tracked, folder):
    run = MlflowClient(store_uri(None, folder)).search_runs(["1"], "tags.`lowrung.key` = 'ab'")[0]
    kept = Path(unquote(urlsplit(run.info.artifact_uri).path)) / "leaderboard.json"
    for spoil in (lambda: kept.write_text("{}"), kept.unlink):
        spoil()
        tracker, asked = _sparing(folder)
        _record(tracker, folder)
        assert asked == ["lowrung"]
        assert kept.read_text() == "[]"


def test_a_run_that_was_deleted_is_recorded_anew(folder):
    _sql(folder, f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE {OF_SWEEP}")
    tracker, asked = _sparing(folder)
    children = _record(tracker, folder)
    assert asked == ["lowrung"]
    assert len(children) == 1
    assert len(MlflowClient(store_uri(None, folder)).search_runs(["1"], "tags.`lowrung.key` = 'ab'")) == 1


def test_a_locked_store_is_mlflows(folder, monkeypatch):
    monkeypatch.setattr(sqlite3, "connect", lambda *_, connect=sqlite3.connect, **more: connect(*_, timeout=0, **more))
    tracker, _ = _sparing(folder)
    with sqlite3.connect(folder / "mlflow.db") as writer:
        writer.execute("BEGIN EXCLUSIVE")
        tracker._connect = lambda: _ask([])
        with pytest.raises(_AskedError):
            tracker.find("ab")
    writer.close()
