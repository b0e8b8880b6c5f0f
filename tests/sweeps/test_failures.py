"""What no run can help: a full disk, folders that cannot be written, a tracker that goes away."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lowrung.__main__ import main
from lowrung.errors import StoreError, UsageError
from lowrung.runs import execution
from lowrung.runs.computation import Computation
from lowrung.store import results
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.track import recording
from tests import composing, warm
from tests.servers import free_port, tracking_server
from tests.terminal import PATIENCE, train

SMALL = [
    "model=tiny",
    "train=smoke",
    "data=number_words",
    "data.train_size=8",
    "data.eval_size=4",
    "verify.prompts=2",
    "verify.new_tokens=2",
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """2.5 MB of disk: room for a run of rank 4, and not for one of rank 256."""
    disk = tmp_path / "small disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_its_run_alone_and_leaves_no_halves(tmp_path: Path, small_disk: Path) -> None:
    done = warm.train(
        tmp_path, "-m", *SMALL, "lora.r=4,256,2", "study=s", f"store='{small_disk / 'runs'}'", "track=none"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    runs = [(tmp_path / "multirun" / "s" / str(number) / "run").resolve() for number in range(3)]
    outcomes = [Outcome.read(RunFolder(run).outcome) for run in runs]
    assert [outcome.status for outcome in outcomes if outcome] == [Status.COMPLETE, Status.FAILED, Status.COMPLETE]
    failed = outcomes[1]
    assert failed is not None
    assert failed.cause == f"no space left on the disk of {runs[1]}; free some, and the same command goes on"
    assert failed.cause in done.stderr
    assert not [path for path in runs[1].rglob("*") if path.suffix in (".safetensors", ".pt", ".bin")]
    assert all((run / "adapter" / "adapter_model.safetensors").is_file() for run in (runs[0], runs[2]))


@pytest.mark.slow
def test_an_outcome_that_cannot_be_written_is_raised(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.outcome.mkdir()  # nothing can be swapped in there
    with composing.composer() as composer, pytest.raises(StoreError, match="FileNotFoundError"):
        execution.execute(
            Computation(composer.config("model=tiny"), folder, tmp_path / "no tokens", tmp_path / "nothing kept", 1),
            claim=results.claim(folder),
            planned=None,
            on_point=lambda point: None,
            stop_reason=lambda: None,
        )
    assert {path.name for path in folder.path.iterdir()} == {"outcome.json", "claim", "parts.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (["store=file/runs"], "store must"),
        (["-m", "lora.r=2,4", "hydra.sweep.dir=file/x"], "hydra.sweep.dir"),
        (["hydra.run.dir=file/x"], "hydra.run.dir"),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_said_at_the_start(
    tmp_path: Path, arguments: list[str], setting: str
) -> None:
    (tmp_path / "file").touch()
    done = warm.train(tmp_path, *SMALL, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert setting in done.stderr
    assert str(tmp_path / "file") in done.stderr or "file/x" in done.stderr
    assert not list(tmp_path.rglob("config.yaml.*"))
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("uri", ["sqlite:///folder", "sqlite:///file/mlflow.db", "sqlite:///notes.txt"])
def test_a_database_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "notes.txt").write_text("mine\n")
    with composing.composer() as composer:
        (problem,) = recording.tracking_problems(composer.config(f"track.uri={uri}"))
    assert problem.startswith("track.uri must")


@pytest.mark.slow
def test_a_config_and_a_sweep_do_not_go_together(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "--cfg", "job", "lora.r=4,8")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: --cfg and --info show one config and run nothing, so neither goes with -m (nor with each other)."
        " Leave -m out, and give each setting one value.\n"
    )


# -- a tracker that goes away ------------------------------------------------------------------------------------------


STRIKE = """
import contextlib, os, pathlib, signal, time

def strike(predictions, references):
    if pathlib.Path("multirun/s/2").exists():
        while not pathlib.Path("back").exists():
            time.sleep(0.05)
    elif pathlib.Path("multirun/s/1").exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pathlib.Path("server").read_text()), signal.SIGKILL)
    return 0.0
"""
"""A metric of the user's, asked when a run has been trained: the tracker dies while the second one is under way, and
the third one ends when it is back."""


@pytest.mark.slow
def test_a_tracker_that_was_away_is_killed_and_is_back_has_every_metric_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port, missing = free_port(), tmp_path / "multirun" / "s" / "untracked.json"
    sweep = ["-m", *SMALL, "data.metrics=[away.strike]", "lora.r=2,4,8", "study=s"]
    sweep.append(f"track.uri=http://127.0.0.1:{port}")
    (tmp_path / "away.py").write_text(STRIKE)
    done = warm.train(tmp_path, *sweep, "hydra.sweeper.n_trials=1", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.stdout.splitlines()[-1].endswith("lowrung sync s sends it."), done.stdout + done.stderr
    assert "warning: the tracker is away (MLflow: " in done.stdout
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor() as pool, tracking_server(tmp_path, port) as (process, uri):
        main(["sync"])
        assert capsys.readouterr().out == f"s: 1 run sent to {uri}, experiment lowrung\n"
        assert not missing.exists()
        check(uri, count=2)
        (tmp_path / "server").write_text(str(process.pid))
        going = pool.submit(warm.train, tmp_path, *sweep, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
        assert process.wait(PATIENCE) == -signal.SIGKILL
        with tracking_server(tmp_path, port):
            (tmp_path / "back").touch()
            done = going.result(PATIENCE)
            assert done.returncode == 0, done.stdout + done.stderr
            check(uri, count=4)
    assert done.stdout.splitlines()[-1].startswith(f"compare:  {uri}/#/experiments/")
    assert not missing.exists()


def check(uri: str, count: int) -> None:
    """That a server has so many runs, all of them ended and whole, with one value of a metric a step."""
    client = MlflowClient(uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FINISHED"] * count
    for run in runs:
        steps = {
            name: [point.step for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        assert all(len(each) == len(set(each)) for each in steps.values())
        if folder := run.data.tags.get("lowrung.results"):
            reported = [json.loads(line) for line in RunFolder(Path(folder)).reports.read_text().splitlines()]
            losses = [report["step"] for report in reported if "eval/loss" in report["metrics"]]
            assert sorted(steps["eval/loss"]) == losses


@pytest.mark.slow
def test_a_sweep_starts_without_its_server_but_not_with_a_file_that_is_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "text.db").write_text("no database, " * 100)
    with composing.composer() as composer, socket.create_server(("127.0.0.1", 0)) as hung:  # accepts, and never answers
        for port, said in ((free_port(), "the tracker is away"), (hung.getsockname()[1], "has not answered for 0 s")):
            config = composer.config(f"track.uri=http://127.0.0.1:{port}")
            monkeypatch.setattr(recording, "PATIENCE_SECONDS", 60.0 if "away" in said else 0.2)
            sender = recording.sender(config)
            assert recording.first_answer(sender, config, sender.send(lambda tracker: "answer", "s")) is None
            assert said in capsys.readouterr().out
            sender.close()
        config = composer.config("track.uri=sqlite:///text.db")
        sender = recording.sender(config)
        with pytest.raises(UsageError, match=r"track\.uri must be a store .* cannot \(MLflow:"):
            recording.first_answer(sender, config, sender.send(lambda tracker: "answer", "s"))
