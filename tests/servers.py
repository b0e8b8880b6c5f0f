"""A tracking server of MLflow on this machine."""

import contextlib
import http.client
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tests import warm
from tests.terminal import PATIENCE, environment

PORTS = range(20_000, 30_000)
"""Below those that Linux gives to whoever asks for any (32768 and up): a server takes seconds until it listens, and
until then its port must be nobody's. A client that looks for it could even be given its port, and find itself."""


def free_port() -> int:
    """A port that nobody listens on, nor will before its server does."""
    draw = random.SystemRandom()  # the seed of the common one is set by each training
    while True:
        port = draw.choice(PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def answers(port: int) -> bool:
    """Whether the server on a port is there."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False


SERVES = """
import os, sys
import mlflow.server
from mlflow.cli import cli
from uvicorn.main import main

def serve(command, extra_env, **_):
    os.environ.update(extra_env)
    main(command[command.index("uvicorn") + 1 :])

os.setsid()
mlflow.server._exec_cmd = serve
cli(["server", *sys.argv[1:]])
"""
"""``mlflow server ...``, which serves itself: it would import all once more in another process, for 4 s each."""


@contextlib.contextmanager
def tracking_server(
    folder: Path, port: int | None = None, *options: str, database: str | None = None, **extra: str
) -> Iterator[tuple[warm.Started, str]]:
    """A server in a process group of its own, with database and artifacts in a folder, and its address.

    Args:
        folder: the server's.
        port: None is any that is free.
        options: more of ``mlflow server``.
        database: address of its database; None is a file in the folder.
        extra: environment variables.
    """
    port = port or free_port()
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", *options]
    arguments += ["--backend-store-uri", database or f"sqlite:///{folder / 'server.db'}"]
    arguments += ["--artifacts-destination", str(folder / "artifacts")]
    variables = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true", **extra)
    with Path(os.devnull).open("r+") as nothing:
        process = warm.start(["-c", SERVES, *arguments], folder, variables, (nothing, nothing, nothing))
    try:
        while not answers(port):
            assert process.poll() is None
            time.sleep(0.1)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
