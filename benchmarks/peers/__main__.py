"""``python -m benchmarks.peers``: the same trials by lowrung, by loops over ``trl sft``, and by Hydra's Optuna sweeper.

The ways take turns on this machine, with the same model, rows, order, steps and batch; then one step of each trainer is
measured against the floor. The tables are printed, and the numbers go to ``benchmarks/results/peers.json``. Where the
losses of two ways differ, the exit code is 1: they did not do the same work. docs/performance.md explains the tables.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import commands, environment, machine, summary, tables
from benchmarks.peers.commands import CommandFailed
from benchmarks.peers.shares import cpu_until, shares
from benchmarks.peers.task import TINY, Files, Task, spread, turned
from benchmarks.peers.ways import LOWRUNG, WAYS, Way, reports, runs
from lowrung.store import atomic

RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
STEPS = 5
"""Of each trainer in each round where single steps are measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and records.

    Returns:
        0, or 1 where a command failed or trained to other losses than lowrung.
    """
    asked = _arguments(arguments)
    base = TINY if asked.tiny else Task()
    task = dataclasses.replace(base, learning_rates=spread(asked.trials), steps=asked.steps or base.steps)
    out = asked.out or (None if asked.tiny else RESULTS)
    tables.show_task(task, [WAYS[name] for name in asked.ways])
    with tempfile.TemporaryDirectory(prefix="lowrung-peers-", dir=asked.scratch) as scratch:
        try:
            for record in measure(task, asked.ways, asked.pairs, asked.step_rounds, Path(scratch)):
                if out:
                    atomic.write_json(out, record)  # as it goes: all of it takes long
        except CommandFailed as error:
            print(error, file=sys.stderr)
            return 1
    tables.show(record)
    return 1 if record["disagreements"] else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="how often each way has its turn")
    parser.add_argument("--trials", type=int, default=1, help="trials of a sweep, each with another learning rate")
    parser.add_argument("--steps", type=int, help="steps of a trial; 16, and with --tiny 3")
    parser.add_argument("--step-rounds", type=int, default=3, help="rounds in which single steps are measured; 0: none")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="which; lowrung among them")
    parser.add_argument("--tiny", action="store_true", help="a two-layer model: tries the benchmark out in a minute")
    parser.add_argument("--scratch", type=Path, help="where the folder of all runs is made, and deleted at the end")
    parser.add_argument("--out", type=Path, help="where the numbers go; with --tiny they go nowhere by default")
    asked = parser.parse_args(arguments)
    for name, least in (("pairs", 1), ("trials", 1), ("steps", 2), ("step_rounds", 0)):
        value = getattr(asked, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, but is {value}")
    if LOWRUNG not in asked.ways:
        parser.error(f"--ways must have {LOWRUNG} among them, since the others are compared with it")
    return asked


def measure(task: Task, names: Sequence[str], pairs: int, step_rounds: int, scratch: Path) -> Iterator[dict[str, Any]]:
    """Measures single steps, and then runs all ways in turn, in another order each time.

    Args:
        task: the trials.
        names: of the ways.
        pairs: turns of each way.
        step_rounds: rounds in which single steps are measured.
        scratch: an empty folder.

    Yields:
        the record so far, after each round of turns; see `benchmarks.peers.summary.summary`.

    Raises:
        CommandFailed: when a command fails.
    """
    about = machine.about(environment.versions() if "hydra-optuna" in names else {})
    files = commands.files(task, scratch)
    steps = _steps(task, step_rounds, scratch) if step_rounds else None  # first: it compares all rows
    turns: list[dict[str, Any]] = []
    for turn in range(pairs):
        for name in turned(names, turn):
            turns.append({"pair": turn, **run(WAYS[name], task, files, scratch / f"{turn}-{name.replace(' ', '-')}")})
            print(f"pair {turn}: {name}, {turns[-1]['wall_seconds']:.0f} s", flush=True)
        yield {"about": about, "task": dataclasses.asdict(task), **summary.summary(task, files, turns, steps)}


def run(way: Way, task: Task, files: Files, folder: Path) -> dict[str, Any]:
    """Runs a way's commands in a new folder.

    Returns:
        ``way``, ``wall_seconds`` and ``cpu_seconds`` of all trials, the largest ``peak_bytes``, the ``losses`` of each
        trial's steps, and for lowrung the ``parts`` of its time and the ``tokens`` that it trained on.

    Raises:
        CommandFailed: when a command fails.
    """
    folder.mkdir()
    variables = {**commands.variables(folder), **way.variables()}
    taken = [commands.run(command, folder, variables) for command in way.commands(task, files, folder)]
    record = {
        "way": way.name,
        "wall_seconds": sum(one["wall_seconds"] for one in taken),
        "cpu_seconds": sum(one["cpu_seconds"] for one in taken),
        "peak_bytes": max(one["peak_bytes"] or 0 for one in taken) or None,
        "peak_bytes_of_a_process": max(one["peak_bytes_of_a_process"] for one in taken),
        "losses": way.losses(task, folder),
    }
    if way.name != LOWRUNG:
        return record
    folders = runs(task, folder)
    trained = [reports(one)[-1]["metrics"]["train/tokens"] for one in folders]
    span = (folders, taken[0]["began"], record["wall_seconds"])
    readings = taken[0]["cpu_by_time"]
    parts = {"wall": shares(*span), "cpu": shares(*span, cpu_until(readings)) if readings else None}
    return {**record, "parts": parts, "tokens": sum(trained)}


def _steps(task: Task, rounds: int, scratch: Path) -> dict[str, Any]:
    out = scratch / "steps.json"
    measured = min(task.steps, STEPS)
    commands.module("steps", scratch, str(scratch / commands.TASK), str(scratch), str(rounds), str(measured), str(out))
    record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return record


if __name__ == "__main__":
    sys.exit(main())
