"""What all tests share: a quiet environment, and a garbage collector that leaves the libraries' objects alone."""

import os

# Before torch is imported anywhere: see lowrung.cli.run.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Before huggingface_hub is: see lowrung.finetune.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gc
import shutil
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import absl.logging
import pytest

from tests import leftovers

# rouge-score brings absl's log handler, which closes its stream when Hydra sets up logging. Made here, it would hold
# pytest's own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

# Else each process that a test starts compiles all of lowrung anew: a sweep of two tiny trials takes 16 s of CPU time
# instead of 10.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What a tester's shell tells MLflow, and a width of lines, which pytest-xdist's workers have; tests set what they need.
for _name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "COLUMNS"):
    os.environ.pop(_name, None)

# A shell's background jobs ignore Ctrl-C, and so would all that tests start: what is ignored stays ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Each of pytest's workers has its share of the cores, and so has all that it starts. A run has a thread for each core:
# of two workers on the same two cores each waits, in every operation, for the core that the other one computes on.
if (_worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    _shares = min(int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), len(_cores))
    os.sched_setaffinity(0, _cores[int(_worker.removeprefix("gw")) % _shares :: _shares])

# In memory, where there is room: a database that waits for the disk to have each line takes 5 to 14 ms for each.
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# To import the libraries takes 13.9 s of CPU time with the collector and 11.2 s without it.
gc.disable()


@pytest.fixture(autouse=True)
def _what_commands_set_is_put_back(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """A command in the tests' own process has it to itself: it sets variables, and puts options before overrides.

    With what it sets for Hydra, the commands of later tests would print tracebacks.
    """
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    variables = dict(os.environ)
    yield
    for name in (os.environ.keys() | variables.keys()) - {"PYTEST_CURRENT_TEST"}:  # pytest's own
        if name not in variables:
            del os.environ[name]
        elif os.environ.get(name) != variables[name]:
            os.environ[name] = variables[name]


@pytest.fixture(autouse=True)
def _logging_and_hydras_version_are_put_back() -> Generator[None]:
    logs, version = leftovers.Logging(), leftovers.HydrasVersion()
    yield
    logs.put_back()
    version.put_back()


@pytest.fixture(autouse=True)
def _what_means_nothing_is_silenced() -> None:
    """Pytest forgets the filters that were set while tests were collected."""
    from lowrung import library_warnings

    library_warnings.silence()


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are planned as for a CPU, also where there is a GPU."""
    from lowrung.config import signature

    monkeypatch.setattr(signature, "device_kind", lambda: "cpu")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a store of MLflow with the experiment ``lowrung`` and no run; to make one takes seconds."""
    from lowrung.track.base import store_uri
    from lowrung.track.opening import create_store

    folder: Path = tmp_path_factory.mktemp("store")
    create_store(store_uri(None, folder), "lowrung", folder / "mlruns")
    return folder / "mlflow.db"


@pytest.fixture
def store_in(empty_store: Path) -> Generator[Callable[[Path], str]]:
    """Makes a store in a folder, and gives its address; see `empty_store`.

    MLflow holds a database open for as long as the process lives, and the next test may be given a folder of the same
    name: what it wrote there would be refused, since the file that is open was deleted.
    """
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Models
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Runs

    from lowrung.track.base import store_uri

    made: list[str] = []

    def make(folder: Path) -> str:
        shutil.copy(empty_store, folder / "mlflow.db")
        made.append(store_uri(None, folder))
        return made[-1]

    yield make
    for engine in (kind._engine_map.get(uri) for kind in (Models, Runs) for uri in made):
        if engine is not None:
            engine.dispose()


_FOUND = pytest.StashKey[tuple[dict[str, Any], leftovers.Logging, leftovers.HydrasVersion]]()
"""The process as the module found it whose tests run."""


def _is_slow_as_a_whole(item: pytest.Item) -> bool:
    module = item.getparent(pytest.Module)
    return module is not None and hasattr(module.obj, "pytestmark")


def _module(item: pytest.Item) -> str:
    """The module, whose tests one worker runs, one after the other: they share what they trained."""
    return item.nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes long first: as the last one, a minute's module leaves all other workers idle."""
    slow = {_module(item) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not _is_slow_as_a_whole(item), _module(item) not in slow))


def pytest_collection_finish() -> None:
    """Keeps the collector off what the libraries made: a walk takes 0.4 s, and the trainer asks for one in each run."""
    from tests import warm  # imported here, since the process that hands out tests imports this file too

    warm.keep_migrations()
    if torch := sys.modules.get("torch"):  # else as many as the machine has cores, until the first test that trains
        torch.set_num_threads(1)
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Notes how the process is before a module's first test."""
    item.session.stash.setdefault(_FOUND, (leftovers.seen(), leftovers.Logging(), leftovers.HydrasVersion()))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Holds a module to leave the process as it was, and keeps the collector off what it left in the libraries.

    After ten modules a walk would take 0.3 s again.
    """
    is_last = nextitem is None or _module(item) != _module(nextitem)
    before, logs, version = item.session.stash[_FOUND]
    try:
        yield
    finally:
        if is_last:
            del item.session.stash[_FOUND]
            logs.put_back()  # what fixtures of the whole module set up
            version.put_back()
            leftovers.stop_fork_server()
    if is_last:
        gc.collect()
        gc.freeze()
        left = leftovers.differences(before, leftovers.seen())
        assert not left, f"{_module(item)} leaves the process other than it was: {'; '.join(left)}"
