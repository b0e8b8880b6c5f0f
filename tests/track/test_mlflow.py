import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from mlflow import MlflowClient, entities

from lowrung.errors import UsageError
from lowrung.finetune.data.split import Split
from lowrung.store.layout import ROOT
from lowrung.store.outcome import Status
from lowrung.track import lookup
from lowrung.track.base import Tracker, TrackError, store_uri
from lowrung.track.mlflow import MlflowTracker
from lowrung.track.opening import create_store
from lowrung.track.pages import View
from tests import warm
from tests.terminal import PATIENCE, environment
from tests.track.contract import TrackerContract
from tests.track.memory import RecordedRun

STATES = {"complete": "FINISHED", "failed": "FAILED", "oom": "FAILED", "diverged": "FAILED"} | dict.fromkeys(
    ("cancelled", "pruned", "skipped"), "KILLED"
)


@pytest.fixture(scope="module")
def folder(empty_store, tmp_path_factory):
    """A folder with a space and a database in it, which has an experiment."""
    made = tmp_path_factory.mktemp("a folder")
    for name in ("mlflow.db", "empty.db"):
        shutil.copy(empty_store, made / name)
    return made


@pytest.fixture
def uri(folder):
    return store_uri(None, folder)


@pytest.mark.slow
def test_what_was_left_of_a_database_by_a_process_that_was_killed_while_it_made_it_is_no_obstacle(tmp_path):
    (tmp_path / ".mlflow.db.new").write_text("half a database")
    (tmp_path / ".mlflow.db.new-journal").write_text("half a journal")
    uri = store_uri(None, tmp_path)
    create_store(uri, "lowrung", tmp_path / "mlruns")
    MlflowTracker(uri, "lowrung").start_run("run")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


class TestMlflowTracker(TrackerContract):
    @pytest.fixture
    def tracker(self, uri):
        return MlflowTracker(uri, "lowrung")

    def reopened(self, tracker: Tracker) -> Tracker:
        assert isinstance(tracker, MlflowTracker)
        return MlflowTracker(tracker._client.tracking_uri, "lowrung")

    def read(self, tracker: Tracker, run: str) -> RecordedRun:
        assert isinstance(tracker, MlflowTracker)
        client = MlflowClient(tracker._client.tracking_uri)
        found = client.get_run(run)
        tags = dict(found.data.tags)
        status = tags.pop("lowrung.status", None)
        assert found.info.status == (STATES[status] if status else "RUNNING")
        assert found.inputs
        root = Path(unquote(urlsplit(found.info.artifact_uri).path))
        return RecordedRun(
            name=tags.pop("mlflow.runName"),
            parent=tags.pop("mlflow.parentRunId", None),
            params=dict(found.data.params),
            tags=tags,
            history={name: self.history(client, run, name) for name in found.data.metrics},
            datasets=[self.dataset(used) for used in found.inputs.dataset_inputs],
            artifacts={p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()},
            status=Status(status) if status else None,
        )

    @staticmethod
    def history(client: MlflowClient, run: str, name: str) -> dict[int, float]:
        points = client.get_metric_history(run, name)
        assert len({point.step for point in points}) == len(points)
        return {point.step: point.value for point in points}

    @staticmethod
    def dataset(used: entities.DatasetInput) -> Split:
        (context,) = [tag.value for tag in used.tags if tag.key == "mlflow.data.context"]
        dataset = used.dataset
        rows = json.loads(dataset.profile or "")["num_rows"]
        return Split(dataset.name, dataset.digest, json.loads(dataset.source)["uri"], context, rows)

    def test_too_long_values_are_cut(self, tracker):
        run = tracker.start_run("run", params={"fits": "x" * 6000, "long": "x" * 6001})
        tracker.set_tags(run, {"long": "x" * 8001})
        record = self.read(tracker, run)
        assert record.params == {"fits": "x" * 6000, "long": "x" * 5999 + "…"}
        assert record.tags == {"long": "x" * 7999 + "…"}

    def test_a_fingerprint_may_be_longer_than_mlflow_takes(self, tracker):
        run = tracker.start_run("run")
        tracker.log_datasets(run, [Split("docstrings", "ab" * 32, "Python", "training", 1)])
        assert self.read(tracker, run).datasets[0].digest == "ab" * 18

    def test_the_page_opens_on_the_runs_of_the_sweep(self, tracker, uri):
        sweep = tracker.start_run("sweep")
        page = tracker.present(sweep, View(["lora.r", "seed"], {"eval/exact_match": "maximize"}))
        route = urlsplit(urlsplit(f"http://127.0.0.1:5000/{page}").fragment)
        query = parse_qs(route.query, strict_parsing=True)
        assert route.path == f"/experiments/{tracker._experiment}/runs"
        assert query["workflowType"] == ["machine_learning"]
        (name,) = query["viewStateShareKey"]
        tags = MlflowClient(uri).get_experiment(tracker._experiment).tags
        state = json.loads(tags[f"mlflow.sharedViewState.{name}"])
        assert sweep in state["searchFilter"]
        assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`eval/exact_match`", False)
        assert {"params.`lora.r`", "params.`seed`", "metrics.`eval/loss`"} <= set(state["selectedColumns"])

    def test_two_runs_of_one_key_become_one(self, tracker, uri):
        """A server that was halted carries out the requests of a process that has asked again since."""
        first, second = (tracker.start_run(name, tags={"lowrung.key": "one"}) for name in ("first", "second"))
        assert tracker.start_run("third", key="one") == first
        assert MlflowClient(uri).get_run(second).info.lifecycle_stage == "deleted"


WRITES = """
import sys
from lowrung.store.outcome import Status
from lowrung.track import lookup
from lowrung.track.base import Point
from lowrung.track.mlflow import MlflowTracker

uri, run, number = sys.argv[1:]
tracker = MlflowTracker(uri, "lowrung")
print("ready", flush=True)
sys.stdin.read()
tracker.log_params(run, {f"p{number}": number})
for step in range(20):
    tracker.log(run, [Point(step, 1.0, {f"m{number}": float(step)})])
own = tracker.start_run(f"own {number}", parent=run)
tracker.end_run(own, Status.COMPLETE)
"""


@pytest.mark.slow
def test_processes_write_side_by_side(uri, tmp_path):
    run = MlflowTracker(uri, "lowrung").start_run("shared")
    variables = environment(PYTHONPATH=str(ROOT / "src"))
    reader, go = os.pipe()
    printed = tmp_path / "printed.txt"
    with os.fdopen(reader) as stdin, printed.open("w") as out:
        writers = [
            warm.start(["-c", WRITES, uri, run, str(number)], tmp_path, variables, (stdin, out, out))
            for number in range(4)
        ]
    while printed.read_text().count("ready") < 4:
        assert [writer.poll() for writer in writers] == [None] * 4, printed.read_text()
        time.sleep(0.01)
    os.close(go)  # all at once
    assert [writer.wait(PATIENCE) for writer in writers] == [0] * 4, printed.read_text()
    client = MlflowClient(uri)
    assert client.get_run(run).data.params == {f"p{number}": str(number) for number in range(4)}
    assert client.get_run(run).data.metrics == {f"m{number}": 19.0 for number in range(4)}
    assert all(len(client.get_metric_history(run, f"m{number}")) == 20 for number in range(4))
    experiment = client.get_run(run).info.experiment_id
    assert len(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run}'")) == 4


def test_a_file_that_is_no_database_is_named_in_a_line(tmp_path):
    (tmp_path / "mlflow.db").write_text("a text")
    with pytest.raises(TrackError, match=r"^MLflow: .*file is not a database$"):
        create_store(store_uri(None, tmp_path), "lowrung", tmp_path / "mlruns")


def test_opening_creates_nothing(tmp_path):
    with pytest.raises(TrackError, match="no database"):
        MlflowTracker(store_uri(None, tmp_path), "lowrung")
    with pytest.raises(TrackError, match="no database"):
        lookup.sweep(store_uri(None, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_opening_another_experiment_is_refused(uri):
    with pytest.raises(TrackError, match="other"):
        MlflowTracker(uri, "other")
    assert MlflowClient(uri).get_experiment_by_name("other") is None


def test_creating_twice_changes_nothing(folder, uri):
    for artifacts in ("mlruns", "elsewhere"):
        create_store(uri, "twice", folder / artifacts)
    experiment = MlflowClient(uri).get_experiment_by_name("twice")
    assert experiment is not None
    assert experiment.artifact_location == (folder / "mlruns").as_uri()


def test_a_deleted_experiment_is_not_written_to(folder, uri):
    create_store(uri, "deleted", folder / "mlruns")
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("deleted")
    assert found is not None
    client.delete_experiment(found.experiment_id)
    with pytest.raises(UsageError, match=r"track\.experiment"):
        create_store(uri, "deleted", folder / "mlruns")


@pytest.mark.parametrize("use", [lambda uri: MlflowTracker(uri, "lowrung"), lambda uri: create_store(uri, "x", Path())])
def test_a_password_is_refused(use):
    with pytest.raises(UsageError, match=r"track\.uri") as caught:
        use("postgresql://me:hunter2@nowhere/mlflow")
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_two_parents_at_once_and_not_a_word_printed(tmp_path):
    """MLflow's own start prints its migrations, and fails when two processes make the same database."""
    script = (
        "import logging, pathlib, sys; logging.basicConfig(level=logging.INFO)\n"
        "from lowrung.track.mlflow import MlflowTracker\n"
        "from lowrung.track.opening import create_store\n"
        "from lowrung.store.outcome import Status\n"
        "create_store(sys.argv[1], 'lowrung', pathlib.Path(sys.argv[2]))\n"
        "tracker = MlflowTracker(sys.argv[1], 'lowrung')\n"
        "tracker.end_run(tracker.start_run('run'), Status.COMPLETE)\n"
    )
    command = [sys.executable, "-c", script, store_uri(None, tmp_path), str(tmp_path / "mlruns")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": environment, "cwd": tmp_path}
    parents = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [(parent.communicate(timeout=PATIENCE)[0], parent.returncode) for parent in parents] == [(b"", 0)] * 2
