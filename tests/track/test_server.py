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
from playwright.sync_api import Browser, sync_playwright

from lowrung.store.outcome import Status
from lowrung.track.base import Point, store_uri
from lowrung.track.pages import View
from tests.servers import free_port
from tests.terminal import PATIENCE

CHROMIUM, FLAGS = Path("/usr/bin/chromium"), ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
SOURCE = Path(__file__).parents[2] / "src"
ASSISTANT = "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1"
"""What a browser keeps when MLflow's assistant has opened once by itself."""
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
    sweep = tracker.start_run("my sweep", tags={"lowrung.kind": "sweep", "lowrung.study": "my sweep"})
    tracker.present(sweep, View(["lora.r"], {"eval/loss": "minimize"}))
    trials = [tracker.start_run(f"r={rank}", parent=sweep, params={"lora.r": str(rank)}) for rank in (4, 8)]
    for trial in trials:
        tracker.log(trial, [Point(step, 1.0, {"eval/loss": 3.0 - step}) for step in (0, 1)])
        tracker.end_run(trial, Status.COMPLETE)
    return trials


def shows_the_sweep(address: str) -> None:
    """Opens both pages of a sweep in a browser: the table has the columns, and the swept axis is drawn."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.add_init_script(f"window.first = localStorage.getItem('{ASSISTANT}')")  # before MLflow's scripts
        page.goto(address)
        for column in ("params.`lora.r`", "metrics.`eval/loss`"):
            page.wait_for_selector(f'.ag-header-cell[col-id="{column}"]', timeout=1000 * PATIENCE)
        assert "workflowType=machine_learning" in page.url
        assert page.locator(".ag-center-cols-container .ag-row").count() == 2
        assert page.evaluate("window.first") == "true"
        assert page.get_by_text("Ask questions about your").count() == 0  # MLflow's assistant, on a third of the page
        page.goto(f"{address}/charts")
        axes = page.locator('[data-testid="experiment-view-compare-runs-card"]').first
        axes.get_by_text("lora.r").first.wait_for(timeout=1000 * PATIENCE)
        leads_where_the_data_of_sites_are_blocked(browser, address)
        browser.close()


def leads_where_the_data_of_sites_are_blocked(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('blocked'); }})")
    page.goto(address, wait_until="commit")
    page.wait_for_url("**workflowType=machine_learning**", timeout=1000 * PATIENCE, wait_until="commit")
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(address)
    assert "workflowType=machine_learning" in (page.get_by_role("link").get_attribute("href") or "")


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
def test_it_serves_the_last_sweep_to_this_machine_alone(tmp_path, empty_store, subtests):
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.copy(empty_store, folder)
    trials = make_sweep(folder)
    before = sorted(folder.iterdir())
    port = free_port()
    with running_ui(folder, port) as ui:
        assert ui.stdout
        short = f"http://127.0.0.1:{port}/sweeps/my%20sweep"
        said = [next(ui.stdout) for _ in range(4)]
        assert said[1:3] == [f"Open {short} (the latest sweep)\n", f"  or {short}/charts\n"]
        assert "Ctrl-C" in said[3]
        assert status("127.0.0.1", port, "/") == 200
        assert status("127.0.0.1", port, "/sweeps/none") == 404
        assert status("127.0.0.1", port, "/sweeps/my%20sweep", Host="evil.example") == 403
        with subtests.test("in a browser"):
            shows_the_sweep(short)
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


@pytest.mark.slow
def test_without_a_database_it_says_what_makes_one(tmp_path):
    message = refused(tmp_path)
    assert str(tmp_path / "mlflow.db") in message
    assert "make sweep" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_taken_port_is_named_with_a_remedy(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port + 1}" in refused(tmp_path, "--port", port)


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["mlruns", "postgresql://me:hunter2@database/mlflow", "http://127.0.0.1:1"])
def test_an_address_that_cannot_be_served_is_refused(tmp_path, uri):
    assert "hunter2" not in refused(tmp_path, "--uri", uri)


@pytest.mark.slow
def test_it_starts_without_anything_heavy():
    script = "import sys; from lowrung.__main__ import parser; parser(); print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )
    heavy = {"mlflow", "torch", "optuna", "hydra", "transformers"}
    assert ended.stdout
    assert heavy.isdisjoint(ended.stdout.split())
