"""A sweep that is killed again and again: in the end everything is there once, as if nothing had happened.

The coordinator, a worker or the fork server gets SIGKILL, once at each kind of moment, and the same command is typed
again whenever the coordinator is gone. A seed draws the moments from what happens (the second new checkpoint and some
milliseconds) and not from the clock, so that they are spread over all that a sweep does on machines of any speed.
``LOWRUNG_CHAOS_SEED=1 python -m pytest tests/sweeps/test_chaos.py`` tries other moments.
"""

import dataclasses
import json
import os
import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from lowrung.store.layout import RunFolder
from tests import warm
from tests.terminal import PATIENCE, command, environment

pytestmark = pytest.mark.slow

SEED = 0
SWEEP = [
    *("-m", "model=tiny", "data=number_words", "data.train_size=64", "data.eval_size=8", "data.metrics=[]"),
    *("lora.r=1,2,3,4", "lora.dropout=0.1", "train.learning_rate=1e-2", "train.batch_size=4"),
    *("train.max_steps=60", "train.eval_steps=10", "train.lr_scheduler_type=constant"),  # a step too many would show
    *("verify.prompts=2", "verify.new_tokens=2", "hydra.launcher.workers=2", "hydra.sweeper.retries=100"),
]
TRIALS = 4

# Who is killed, and the event after which: first while the sweep starts, then while it trains, then while its runs end.
# A coordinator that starts again takes some 4 s, so each pair comes once: other seeds draw others.
STARTING = [("coordinator", "start"), ("worker", "process"), ("coordinator", "database")]
TRAINING = [
    *(("worker", "line"), ("worker", "report"), ("worker", "checkpoint"), ("server", "report")),
    *(("coordinator", "report"), ("coordinator", "checkpoint")),
]
ENDING = [("worker", "gate"), ("worker", "outcome"), ("coordinator", "gate"), ("coordinator", "outcome")]
COUNTS = {"report": 8, "checkpoint": 2, "line": 3}
"""How many such events there may be until the kill; elsewhere it is the first."""

DELAYS = {"start": 2.0, "database": 2.0, "process": 0.5, "gate": 0.5, "outcome": 0.15}
"""The most seconds from the event to the kill; elsewhere 50 ms."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill: so many events of a kind, then some seconds, then SIGKILL."""

    victim: str
    event: str
    count: int
    delay: float


def drawn(seed: int) -> list[Kill]:
    """The kills, in an order and at moments that the seed decides."""
    draw = random.Random(seed)
    order = [draw.sample(phase, len(phase)) for phase in (STARTING, TRAINING, ENDING)]
    return [
        Kill(victim, event, draw.randint(1, COUNTS.get(event, 1)), draw.uniform(0, DELAYS.get(event, 0.05)))
        for phase in order
        for victim, event in phase
    ]


# -- processes, as Linux shows them ------------------------------------------------------------------------------------


def children(pid: int) -> set[int]:
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has just ended
        return set()
    return {int(child) for text in lists for child in text.split()}


def has_open(pid: int, file: Path) -> bool:
    with suppress(OSError):  # it has just ended
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed since
                if link.readlink() == file:
                    return True
    return False


def at_work_in(folder: Path) -> list[int]:
    """The processes whose working folder it is, zombies left out: all of a sweep are."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # no process, ended since, or another user's
            if process.name.isdigit() and (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


def kill(pid: int) -> bool:
    """Sends SIGKILL; whether there was such a process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


# -- the sweep and its kills -------------------------------------------------------------------------------------------


class Chaos:
    """A sweep in a folder whose processes are killed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self._draw = random.Random(seed)
        self._printed = folder / "printed.txt"
        self._errors = folder / "errors.txt"
        self._running: warm.Started | None = None
        self.kills: Counter[str] = Counter()

    def run(self, kills: list[Kill]) -> None:
        """Runs the sweep through all kills to its end."""
        for planned in kills:
            self._inflict(planned)
        while self._coordinator().wait(PATIENCE) != 0:
            self._require_a_known_end()

    def _coordinator(self) -> warm.Started:
        """The coordinator; the command is typed again where none is left."""
        if self._running is None or self._running.returncode is not None:
            variables = environment(LOWRUNG_CACHE=str(self.folder / "cache"), PYTHONUNBUFFERED="1")
            with (
                Path(os.devnull).open() as nothing,
                self._printed.open("ab") as printed,
                self._errors.open("wb") as errors,
            ):
                files = nothing, printed, errors
                self._running = warm.start(command(*SWEEP)[1:], self.folder, variables, files, servers=2)
        return self._running

    def _has_ended(self) -> bool:
        if self._coordinator().poll() is None:
            return False
        if self._running and self._running.returncode not in (0, -signal.SIGKILL):
            self._require_a_known_end()
        return True

    def _require_a_known_end(self) -> None:
        """A sweep cannot start without its preflight, whose process was killed."""
        errors = self._errors.read_text()
        assert "The model and the data must load, but they do not: " in errors, errors

    def _inflict(self, planned: Kill) -> None:
        self._coordinator()
        where = self._await(planned)
        time.sleep(planned.delay)
        while not self._strike(planned.victim, where):
            time.sleep(0.01)
            where = None
        self.kills[planned.victim] += 1

    def _await(self, planned: Kill) -> Path | None:
        """Waits for the event, or for the sweep's end; the run's folder where it happened in one."""
        before = self._seen(planned.event)
        deadline = time.monotonic() + PATIENCE
        while planned.event != "start" and not self._has_ended():
            new = self._seen(planned.event) - before
            if len(new) >= planned.count:
                return sorted(new)[-1][0]
            assert time.monotonic() < deadline, f"{planned} never came\n{self._printed.read_text()}"
            time.sleep(0.002)
        return None

    def _strike(self, victim: str, where: Path | None) -> bool:
        """Kills; False where there was nobody."""
        coordinator = self._coordinator()
        if victim == "coordinator":
            is_killed = kill(coordinator.pid)
            coordinator.wait(PATIENCE)
            return is_killed
        if self._has_ended():
            return False
        if victim == "server":
            return any(kill(server) for server in self._servers())
        workers = self._workers()
        at_work = {worker for worker in workers if where is not None and has_open(worker, RunFolder(where).lock)}
        candidates = sorted(at_work or workers)
        return bool(candidates) and kill(self._draw.choice(candidates))

    def _servers(self) -> set[int]:
        return {pid for pid in children(self._coordinator().pid) if children(pid)}

    def _workers(self) -> set[int]:
        return {worker for server in self._servers() for worker in children(server)}

    def _seen(self, event: str) -> set[tuple[Path, Any]]:
        """What there is of a kind of event, each with the run's folder that it is in, or another path."""
        while True:
            with suppress(FileNotFoundError):  # a run that starts clears its mailbox, also while it is looked at
                return self._look(event)

    def _look(self, event: str) -> set[tuple[Path, Any]]:
        runs = self.folder / "runs"
        if event == "process":
            return {(self.folder, pid) for pid in self._workers()}
        if event == "line":
            return {(self.folder, number) for number, _ in enumerate(self._printed.read_bytes().splitlines())}
        if event == "report":
            files = runs.glob("*/reports.jsonl")
            return {(file.parent, line.split(b",")[0]) for file in files for line in file.read_bytes().splitlines()}
        if event == "checkpoint":
            return {(path.parents[1], path.name) for path in runs.glob("*/checkpoints/checkpoint-*")}
        if event == "gate":
            return {(path.parent, "") for path in runs.glob("*/scratch")}
        if event == "outcome":
            return {(path.parent, "") for path in runs.glob("*/outcome.json")}
        return {(path, "") for path in (*self.folder.glob("mlflow.db"), *self.folder.glob("multirun/*/study.db"))}


# -- what a sweep leaves behind ----------------------------------------------------------------------------------------


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    """The exact results of all complete runs, by signature."""
    outcomes = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/*/outcome.json")}
    assert all(outcome["status"] == "complete" for outcome in outcomes.values())
    return {signature: outcome["metrics"] for signature, outcome in outcomes.items()}


def tracked(folder: Path) -> tuple[Run, list[Run]]:
    """The sweep's run in MLflow, and its children's."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    (parent,) = (run for run in runs if run.data.tags["lowrung.kind"] == "sweep")
    return parent, [run for run in runs if run is not parent]


def history(folder: Path, run: Run, names: set[str]) -> dict[str, list[tuple[int, float]]]:
    """The points of a run's exact metrics, in the order of their steps."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in sorted(names & run.data.metrics.keys())
    }


def exact(folder: Path) -> set[str]:
    """The names of the metrics that are equal on every repeat."""
    names = {name for run in metrics(folder).values() for name in run}
    return names | {"train/loss", "train/grad_norm", "train/learning_rate", "train/tokens"}


def histories(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The histories of all trials' exact metrics, by rank."""
    _, children = tracked(folder)
    names = exact(folder)
    return {run.data.params["lora.r"]: history(folder, run, names) for run in children}


def files(folder: Path) -> set[str]:
    """The names of all that lies in the folder but for the tracker's artifacts; trials are not told apart.

    Nor is what is known of models and data, since which preflight was kept depends on when it was killed, nor what runs
    measured that nobody interrupted.
    """
    others = (
        "mlruns/",
        "printed.txt",
        "errors.txt",
        "runs/.preflight",
        "runs/.fingerprints",
        "runs/.costs",
        "cache/sizes",
    )
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    kept = {name for name in names if not name.startswith(others)}
    return {re.sub(r"^(multirun/[^/]+)/\d+", r"\1/N", name) for name in kept}


def assert_times_are_of_all_parts(folder: Path) -> None:
    """The leaderboard's time of each run is that of all its parts, and its reports are spread over it."""
    (leaderboard,) = folder.glob("multirun/*/leaderboard.json")
    interrupted = 0
    for row in json.loads(leaderboard.read_text()):
        (run,) = (Path(each["results"]) for each in row["runs"])
        parts = json.loads((run / "outcome.json").read_text())["facts"].get("parts", [])
        interrupted += len(parts) > 1
        took = row["measurements"]["time/total_seconds"]
        assert not parts or took == pytest.approx(sum(seconds for _, seconds in parts))
        seconds = [json.loads(line)["seconds"] for line in (run / "reports.jsonl").read_text().splitlines()]
        assert seconds == sorted(seconds)
        assert seconds[-1] <= took
    assert interrupted


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sweep that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    Chaos(folder, SEED).run([])
    return folder


@pytest.mark.timeout(3600)  # two minutes on a quiet machine; two cores may be busy with more
def test_kills_leave_no_trace(tmp_path: Path, undisturbed: Path) -> None:
    seed = int(os.environ.get("LOWRUNG_CHAOS_SEED", SEED))
    chaos = Chaos(tmp_path, seed)
    chaos.run(drawn(seed))
    assert chaos.kills == Counter(victim for victim, _ in (*STARTING, *TRAINING, *ENDING))

    assert metrics(tmp_path) == metrics(undisturbed)
    assert files(tmp_path) == files(undisturbed)
    assert_times_are_of_all_parts(tmp_path)

    (database,) = tmp_path.glob("multirun/*/study.db")
    trials = optuna.load_study(study_name=None, storage=f"sqlite:///{database}").trials
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert sorted(trial.params["lora.r"] for trial in complete) == [1, 2, 3, 4]
    # A trial whose coordinator was killed while it asked lacks its values, and is put aside.
    assert all(trial.state.name == "FAIL" and not trial.params for trial in trials if trial not in complete)

    parent, children = tracked(tmp_path)
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children)
    assert len(children) == TRIALS
    assert histories(tmp_path) == histories(undisturbed)
    names = exact(undisturbed)
    best = {name: value for name, value in parent.data.metrics.items() if name in names}
    assert best == {k: v for k, v in tracked(undisturbed)[0].data.metrics.items() if k in names}

    deadline = time.monotonic() + PATIENCE
    while (left := at_work_in(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
