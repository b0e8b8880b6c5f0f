"""``make ui``: MLflow's server on this machine, with a short address for each sweep."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn
from urllib.parse import quote

from lowrung.errors import UsageError
from lowrung.store import addresses
from lowrung.store.layout import CHECKOUT
from lowrung.track import app, pages
from lowrung.track.base import TrackError, check_uri

HOST = "127.0.0.1"
"""The server is for this machine alone; it asks for no password."""

SWEEP = "lowrung train -m lora.r=4,8" if CHECKOUT is None else "make sweep"
"""What makes a first sweep."""

_GRACE = 10.0  # seconds to stop in before the server is killed; it takes 1.5 when idle
_QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs are for agents; without them it starts in half the time
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",
}


def serve(uri: str, port: int, ready: Callable[[str, bool], None]) -> None:
    """Serves the store until Ctrl-C.

    Args:
        uri: the address of the store, absolute (see `lowrung.track.base.store_uri`).
        port: the port on 127.0.0.1.
        ready: is called once the server answers, with the address of the latest sweep's page, or the server's, and
            whether there is a sweep.

    Raises:
        UsageError: when there is nothing to serve, or the port is taken.
        TrackError: when the server ends by itself.
    """
    _require_store(uri)
    _require_free(port)
    _require_app()
    from lowrung.track import lookup  # imports mlflow (2 s)

    sweep = lookup.sweep(uri)
    with _interruptible(), contextlib.suppress(KeyboardInterrupt), _server(uri, port) as server:
        print(f"Starting MLflow on {HOST}:{port} ...", flush=True)
        _await_answer(server, port)
        page = f"/{pages.SHORT}/{quote(sweep.study, safe='')}" if sweep else "/"
        ready(f"http://{HOST}:{port}{page}", sweep is not None)
        raise TrackError(f"MLflow's server ended by itself with code {server.wait()}.")


def _require_app() -> None:
    if not app.is_installed():
        raise UsageError(
            "lowrung must be installed as it is now, but its installation is older than its code, and MLflow does not"
            " find it. Run make setup, or pip install -e . in the checkout."
        )


def _require_store(uri: str) -> None:
    problems = check_uri(uri)
    if problems:
        raise UsageError(problems)
    if uri.startswith("http"):
        raise UsageError(f"There is nothing to serve: the runs are on a server already. Open {uri} in a browser.")
    database = addresses.sqlite_path(uri)
    if database and not database.is_file():
        raise UsageError(
            f"There are no runs to show yet: {database} does not exist. "
            f"Run `{SWEEP}` first, or name another database with --uri sqlite:///PATH."
        )


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"--port must be free, but {port} is not ({error.strerror}). "
                f"Stop what uses it, or take another: lowrung ui --port {port + 1}."
            ) from None


@contextlib.contextmanager
def _server(uri: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the server in a session of its own: Ctrl-C reaches us alone, and we stop all of its processes."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--backend-store-uri", uri, "--registry-store-uri", uri, "--workers", "1", "--app-name", app.NAME]
    command += ["--allowed-hosts", f"{HOST}:*,localhost:*"]
    command += ["--uvicorn-opts", "--log-level warning --timeout-graceful-shutdown 2"]
    server = subprocess.Popen(command, env={**os.environ, **_QUIET}, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield server
    finally:
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
    gone = (ProcessLookupError, PermissionError)  # macOS raises the latter where only zombies are left
    with contextlib.suppress(*gone):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(_GRACE)
    with contextlib.suppress(*gone):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Makes SIGTERM and a closed terminal end the block as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {name: signal.signal(name, interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in former.items():
            signal.signal(name, handler)


def _await_answer(server: subprocess.Popen[bytes], port: int) -> None:
    while not _answers(port):
        if server.poll() is not None:
            raise TrackError(
                f"MLflow's server could not start; it ended with code {server.returncode}, and its message is above."
            )
        time.sleep(0.1)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
