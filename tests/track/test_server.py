"""``make ui`` through the command that it runs, against a real server."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lowrung.store.outcome import Status
from lowrung.track.base import Point, store_uri
from tests.servers import free_port
from tests.terminal import PATIENCE

SOURCE = Path(__file__).parents[2] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lowrung", "ui", *map(str, arguments)]


def refused(folder: Path, *arguments: object) -> str:
    """What the command says on stderr when it ends with exit code 2."""
    ended = subprocess.run(
        command(*arguments), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr


def make_sweep(folder: Path) -> list[str]:
    """Tracks a sweep of two trials in the folder's store; gives the trials' ids."""
    from lowrung.track.mlflow import MlflowTracker

    tracker = MlflowTracker(store_uri(None, folder), "lowrung")
    sweep = tracker.start_run("sweep", tags={"lowrung.kind": "sweep"})
    trials = [tracker.start_run(f"r={rank}", parent=sweep, params={"lora.r": str(rank)}) for rank in (4, 8)]
    for trial in trials:
        tracker.log(trial, [Point(0, 1.0, {"eval/loss": 3.0})])
        tracker.end_run(trial, Status.COMPLETE)
    return trials


def status(address: str, port: int, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status


def processes_of_session(leader: int) -> list[int]:
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and session_of(entry) == leader
    ]


def session_of(process: Path) -> int | None:
    """None where it has ended, even if nobody has asked how yet."""
    with contextlib.suppress(OSError):
        state, _, _, session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
        return int(session) if state != "Z" else None
    return None


def children_of(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def listening_addresses(port: int) -> set[str]:
    """The local addresses, in hexadecimal, on which something listens on the port."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")}


@contextlib.contextmanager
def running_ui(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ui = subprocess.Popen(command("--port", port), cwd=folder, env=ENVIRONMENT, **pipes)
    try:
        yield ui
    finally:
        ui.terminate()  # it ends its server, which has a session of its own
        ui.wait(PATIENCE)


def ends_cleanly(ui: subprocess.Popen[str], ending: signal.Signals) -> None:
    (server,) = children_of(ui.pid)
    assert len(processes_of_session(server)) >= 2
    ui.send_signal(ending)
    output, errors = ui.communicate(timeout=PATIENCE)
    assert ui.returncode == 0
    assert "Traceback" not in output + errors
    deadline = time.monotonic() + PATIENCE
    while (left := processes_of_session(server)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == []


@pytest.mark.slow
def test_it_serves_the_last_sweep_to_this_machine_alone(tmp_path, empty_store):
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.copy(empty_store, folder)
    trials = make_sweep(folder)
    before = sorted(folder.iterdir())
    port = free_port()
    with running_ui(folder, port) as ui:
        assert ui.stdout
        link = next(line for line in ui.stdout if "http" in line)
        assert "Ctrl-C" in next(ui.stdout)
        assert f"http://127.0.0.1:{port}/#/compare-runs?runs=" in link
        assert all(trial in link for trial in trials)
        assert status("127.0.0.1", port, "/") == 200
        run = f"/ajax-api/2.0/mlflow/runs/get?run_id={trials[0]}"
        assert status("127.0.0.1", port, run) == 200
        assert status("127.0.0.1", port, run, Host="evil.example") == 403
        assert listening_addresses(port) == {"0100007F"}  # 127.0.0.1
        ends_cleanly(ui, signal.SIGINT)
    assert sorted(folder.iterdir()) == before


@pytest.mark.slow
def test_without_a_sweep_it_serves_and_says_what_makes_one(tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path)
    port = free_port()
    with running_ui(tmp_path, port) as ui:
        assert ui.stdout
        assert "make sweep" in next(line for line in ui.stdout if "sweep" in line)
        assert next(ui.stdout) == f"Open http://127.0.0.1:{port}/\n"
        assert status("127.0.0.1", port, "/") == 200
        ends_cleanly(ui, signal.SIGTERM)


def test_without_a_database_it_says_what_makes_one(tmp_path):
    message = refused(tmp_path)
    assert str(tmp_path / "mlflow.db") in message
    assert "make sweep" in message
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_named_with_a_remedy(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port + 1}" in refused(tmp_path, "--port", port)


@pytest.mark.parametrize("uri", ["mlruns", "postgresql://me:hunter2@database/mlflow", "http://127.0.0.1:1"])
def test_an_address_that_cannot_be_served_is_refused(tmp_path, uri):
    assert "hunter2" not in refused(tmp_path, "--uri", uri)


def test_it_starts_without_anything_heavy():
    script = "import sys; from lowrung.__main__ import parser; parser(); print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )
    heavy = {"mlflow", "torch", "optuna", "hydra", "transformers"}
    assert ended.stdout
    assert heavy.isdisjoint(ended.stdout.split())
