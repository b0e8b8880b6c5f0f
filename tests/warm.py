"""Commands in processes that have the libraries: each is forked from one that has imported them, and so is its server.

``python src/train.py`` imports for 8 s of CPU time until it trains, and the fork server of a sweep for as long again.
A fork runs the same program from its first line on, with its own arguments, folder, environment, files and signals.
What happens while libraries are imported is seen by the commands of `tests.terminal`, which has the same functions.
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from multiprocessing import util
from pathlib import Path
from types import ModuleType
from typing import IO, Any

if __name__ != "__main__":
    from tests.terminal import PATIENCE, SIGNALLED, command, environment

    ENVIRONMENT = environment()
    """Before any test has changed it: libraries read it when they are imported."""


LIBRARIES = (
    *("cloudpickle", "hydra.main", "optuna", "pandas", "rich.live", "scipy.stats", "alembic.command"),
    *("mlflow", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store"),
    *("torch", "transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2"),
    *("peft", "trl.trainer.sft_trainer", "matplotlib.figure", "matplotlib.backends.backend_agg", "tabulate"),
)
"""What lowrung imports until it trains, draws and ends."""

LOWRUNG = (
    *("lowrung.commands.train", "lowrung.sweeps.entry", "lowrung.track.mlflow", "lowrung.report.plots.images"),
    *("lowrung.engine.worker", "lowrung.runs.task", "lowrung.finetune.training.fine_tune"),
    "lowrung.finetune.gate.verify",
)
"""The same of lowrung itself, which a command and the fork server of its sweep would import for half a second each."""

LONGEST = 1 << 18
"""Bytes of a message."""


# -- in the tests' process ---------------------------------------------------------------------------------------------


def train(folder: Path, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command in a folder to its end; see `tests.terminal.train`."""
    return run(command(*arguments)[1:], folder, environment(**extra))


def succeeds(folder: Path, *arguments: str) -> str:
    """What a command prints that ends with exit code 0."""
    done = train(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def signalled(folder: Path, text: str, number: signal.Signals, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command that gets a signal when it has printed a text; see `tests.terminal.signalled`."""
    return run(["-c", SIGNALLED, text, str(int(number)), *command(*arguments)[1:]], folder, environment())


def run(
    arguments: list[str], folder: Path, variables: dict[str, str], typed: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Runs ``python ARGUMENTS``, a script or ``-c CODE`` or ``-``, to its end; ``typed`` is on its stdin."""
    with (
        tempfile.TemporaryFile("w+") as stdin,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        stdin.write(typed)
        stdin.seek(0)
        started = start(arguments, folder, variables, (stdin, out, err))
        try:
            code = started.wait(PATIENCE)
        except BaseException:
            os.kill(started.pid, signal.SIGKILL)
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def run_in_place_of_subprocess(command: list[str], *, env: dict[str, str], **_: bool) -> Any:
    """Stands for `subprocess.run` in a module that calls Python and captures what is printed."""
    assert command[0] == sys.executable
    return run(command[1:], Path.cwd(), env)


class Started:
    """A process that was forked; as much of `subprocess.Popen` as tests need."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self.pid = int(link.recv(LONGEST))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(1e-6)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Its exit code when it has ended; negative, the signal that ended it."""
        if self.returncode is None:
            self._link.settimeout(timeout)
            try:
                self.returncode = int(self._link.recv(LONGEST))
            except TimeoutError as error:
                raise subprocess.TimeoutExpired(str(self.pid), timeout) from error
            self._link.close()
        return self.returncode


def start(
    arguments: list[str], folder: Path, variables: dict[str, str], files: tuple[IO[Any], ...], servers: int = 1
) -> Started:
    """Forks ``python ARGUMENTS``, with these files as its stdin, stdout and stderr.

    Its first fork servers, so many, are forked too: a process needs another one where its first is killed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = {
        "arguments": arguments,
        "folder": str(folder),
        "variables": variables,
        "cores": list(os.sched_getaffinity(0)),
        "servers": servers,
    }
    with theirs:
        numbers = [theirs.fileno(), *(file.fileno() for file in files)]
        socket.send_fds(_importer(), [json.dumps(request).encode()], numbers)
    return Started(ours)


def talk(arguments: list[str], folder: Path, variables: dict[str, str]) -> tuple[Started, IO[str], IO[str]]:
    """Forks ``python ARGUMENTS``; gives it, what writes to its stdin, and what reads its stdout."""
    (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
    with os.fdopen(theirs_in) as stdin, os.fdopen(theirs_out, "w") as stdout, Path(os.devnull).open("w") as nothing:
        started = start(arguments, folder, variables, (stdin, stdout, nothing))
    return started, os.fdopen(ours_in, "w"), os.fdopen(ours_out)


@functools.cache
def _importer() -> socket.socket:
    """The link to the importer, which ends with the last of the processes that ask it: pytest's workers share it."""
    address = f"\0lowrung importer {os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)  # another worker's, if it is there
        listener.listen()
        arguments = [sys.executable, __file__, str(listener.fileno())]
        subprocess.Popen(arguments, env=ENVIRONMENT, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while link.connect_ex(address):  # bound, and not yet listened at
        time.sleep(0.01)
    return link


# -- migrations --------------------------------------------------------------------------------------------------------


def keep_migrations() -> None:
    """Keeps what is read of migrations: whoever opens a database of Optuna's or MLflow's reads them all."""
    util: Any = importlib.import_module("alembic.util")
    read, kept = util.load_python_file, functools.cache(util.load_python_file)
    util.load_python_file = lambda folder, name: (read if name == "env.py" else kept)(Path(folder), name)


def read_migrations() -> None:
    """Reads them before anybody needs them."""
    util: Any = importlib.import_module("alembic.util")
    for library, place in (("mlflow", "store/db_migrations"), ("optuna", "storages/_rdb/alembic")):
        for file in (Path(sys.modules[library].__path__[0]) / place / "versions").glob("*.py"):
            util.load_python_file(file.parent, file.name)


# -- in the process that has imported the libraries --------------------------------------------------------------------


def serve(listener: socket.socket) -> tuple[str, str]:
    """Forks a process for each request, until nobody is left who could ask.

    Returns:
        in each of the forked ones its program, and the name of the program's file.
    """
    links: list[socket.socket] = []
    running: dict[int, tuple[int, socket.socket]] = {}
    """By a file that can be read when it has ended: each process, and who asked for it."""
    while True:
        watched: list[Any] = [listener, *links, *running]
        for source in select.select(watched, [], [])[0]:
            if source is listener:
                links.append(listener.accept()[0])
            elif source in running:
                _report(source, *running.pop(source))
            elif received := _received(source):
                request, asker, files = received
                pid = os.fork()
                if pid == 0:
                    for other in (listener, *links, asker, *(other for _, other in running.values())):
                        other.close()
                    _close(running)
                    return _become(files, **request)
                _close(files)
                running[os.pidfd_open(pid)] = pid, asker
                _tell(asker, pid)
            else:
                source.close()
                links.remove(source)
                if not links:
                    sys.exit()


def _received(link: socket.socket) -> tuple[dict[str, Any], socket.socket, list[int]] | None:
    """A request, who asks, and the files of the process; None from one who has ended."""
    message, numbers, _, _ = socket.recv_fds(link, LONGEST, 4)
    return (json.loads(message), socket.socket(fileno=numbers[0]), numbers[1:]) if message else None


def _report(file: int, pid: int, asker: socket.socket) -> None:
    """Tells how a process has ended."""
    os.close(file)
    _, status = os.waitpid(pid, 0)
    with asker:
        _tell(asker, os.waitstatus_to_exitcode(status))


def _tell(asker: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        asker.send(str(number).encode())


def _close(files: Iterable[int]) -> None:
    for number in files:
        os.close(number)


def _become(
    files: list[int], arguments: list[str], folder: str, variables: dict[str, str], cores: list[int], servers: int
) -> tuple[str, str]:
    """Makes this process one that was started so, up to the program's first line; gives the program."""
    os.sched_setaffinity(0, cores)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None
    if variables.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    is_safe, arguments = arguments[0] == "-P", arguments[arguments[0] == "-P" :]
    script, *others = arguments
    is_file = not script.startswith("-")
    own = [str(Path(script).resolve().parent) if is_file else ""]
    sys.path[:0] = [*([] if is_safe else own), *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]
    found = PathFinder.find_spec("lowrung", sys.path)
    assert found is None or found.origin == sys.modules["lowrung"].__file__, "a command here runs this checkout alone"
    sys.argv = ["-c", *others[1:]] if script == "-c" else arguments
    _offer_fork_servers(servers)
    main = sys.modules["__main__"] = ModuleType("__main__")
    if is_file:
        main.__file__ = script
        return Path(script).read_text(), script
    return (others[0], "<string>") if script == "-c" else (sys.stdin.read(), "<stdin>")


def _offer_fork_servers(count: int) -> None:
    """Forks what becomes this process's fork servers when `multiprocessing` starts one, where others exec it."""
    offers: list[tuple[int, socket.socket]] = []
    for _ in range(count):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            for link in (ours, *(link for _, link in offers)):
                link.close()
            _await_and_become_a_fork_server(theirs)
        theirs.close()
        offers.append((pid, ours))
    start_another = util.spawnv_passfds

    def start_server(path: bytes, arguments: Sequence[Any], numbers: Sequence[int]) -> int:
        is_fork_server = arguments[-1].startswith("from multiprocessing.forkserver import main")
        if not (is_fork_server and offers):
            return start_another(path, arguments, numbers)
        mask = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
        request = {"code": arguments[-1], "numbers": list(numbers), "variables": dict(os.environ), "mask": mask}
        pid, link = offers.pop()
        with link:
            socket.send_fds(link, [json.dumps(request).encode()], numbers)
        return pid

    util.spawnv_passfds = start_server  # type: ignore[assignment]


def _await_and_become_a_fork_server(link: socket.socket) -> None:
    message, received, _, _ = socket.recv_fds(link, LONGEST, 2)
    link.close()
    if not message:
        os._exit(0)
    request = json.loads(message)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["mask"])
    high = [os.dup2(file, 500 + index) for index, file in enumerate(received)]
    for file in received:
        os.close(file)
    for file, number in zip(high, request["numbers"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.path[:] = os.environ["PYTHONPATH"].split(os.pathsep)
    exec(request["code"])
    sys.exit()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1] / "src")  # in place of tests/
    gc.disable()
    for library in (*LIBRARIES, *LOWRUNG):
        importlib.import_module(library)
    del sys.path[0]
    keep_migrations()
    read_migrations()
    gc.freeze()
    gc.enable()
    source, name = serve(socket.socket(fileno=int(sys.argv[1])))
    exec(compile(source, name, "exec"), vars(sys.modules["__main__"]))
