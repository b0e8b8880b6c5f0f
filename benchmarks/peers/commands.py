"""Commands, run to their ends in an environment that all of them share, and measured."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.task import Files, Task
from lowrung.engine import cores
from lowrung.store.layout import ROOT

PROCESS = Path(__file__).with_name("process.py")

MEASURED, TASK = "measured.json", "task.json"


class CommandFailed(Exception):  # noqa: N818
    """A command ended with another exit code than 0; the message ends with what it printed last."""


def variables(folder: Path) -> dict[str, str]:
    """The environment of all commands: the user's, with nothing of it that sets threads; no hub, and no old caches.

    Args:
        folder: where a command runs; what `datasets` keeps lies there, for all trials of a loop.
    """
    unset = {*cores.thread_variables(1), "GOMP_SPINCOUNT", "PYTHONPATH", "HYDRA_FULL_ERROR"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs a command to its end, with all its descendants.

    Args:
        command: the program and its arguments.
        folder: where it runs, and where its log and what it took are written.
        environment: its variables.

    Returns:
        what `benchmarks.peers.process` writes.

    Raises:
        CommandFailed: when its exit code is not 0.
    """
    measured, log = folder / MEASURED, folder / "log.txt"
    with log.open("wb") as file:
        done = subprocess.run(
            [sys.executable, str(PROCESS), str(measured), *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
        raise CommandFailed(f"{end}\n\nthis command ended with exit code {done.returncode}: {' '.join(command)}")
    record: dict[str, Any] = json.loads(measured.read_text(encoding="utf-8"))
    return record


def module(name: str, folder: Path, *arguments: str) -> None:
    """Runs a module of this package, with lowrung's source and the benchmarks on its path."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", f"benchmarks.peers.{name}", *arguments]
    run(command, folder, {**variables(folder), "PYTHONPATH": path})


def files(task: Task, folder: Path) -> Files:
    """Writes the task's rows into a folder, or takes what is there of the same task."""
    description = folder / TASK
    if not (description.is_file() and Task.read(description) == task and (folder / "facts.json").is_file()):
        task.write(description)
        module("rows", folder, str(description), str(folder))
    return Files.read(folder)
