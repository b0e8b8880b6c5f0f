"""What a sweep costs of which all is known: it trains nothing, and prints its leaderboard from the store.

``python -m benchmarks.answered`` trains three runs of the tiny model in a temporary folder, and then asks for the same
sweep again: as it was, as another study, which MLflow does not have yet, and without MLflow. CPU seconds are those of
the command until its leaderboard is printed, and to its end. Seconds by the clock show what a process of its own took.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import psutil

_TRAIN = Path(__file__).resolve().parents[1] / "src" / "train.py"
_SWEEP = ("-m", "model=tiny", "data=number_words", "lora.r=4,8,16", "train.max_steps=4")
_PRINTED = "verdict: "
"""How the line after a leaderboard begins."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints medians and spreads of both times, for each way to ask again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answered", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each sweep is asked for, in turn")
    rounds = parser.parse_args(arguments).rounds
    taken: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="lowrung-benchmark-") as folder:
        for warm in (("study=known",), ("study=untracked", "track=none")):
            _ask(warm, folder)
        for number in range(rounds):
            taken["the same command again"].append(_ask(("study=known",), folder))
            taken["another study, new to MLflow"].append(_ask((f"study=other_{number}",), folder))
            taken["again, track=none"].append(_ask(("study=untracked", "track=none"), folder))
    for name, times in taken.items():
        printed, whole, clock = (_spread(each) for each in zip(*times, strict=True))
        print(f"{name}: leaderboard after {printed} s of CPU time, whole command {whole}, {clock} by the clock")


def _ask(settings: Sequence[str], folder: str) -> tuple[float, float, float]:
    """CPU seconds of a sweep's process until its leaderboard is printed, and to its end; and those of the clock."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else all of lowrung is compiled anew each time: 0.4 s
    before, started = _of_children(), time.perf_counter()
    command = [sys.executable, "-u", str(_TRAIN), *_SWEEP, *settings]
    printed = None
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_PRINTED):
                times = psutil.Process(process.pid).cpu_times()
                printed = times.user + times.system
    if process.returncode or printed is None:
        raise SystemExit(f"A sweep must print its leaderboard, but this one ended with {process.returncode}.")
    return printed, _of_children() - before, time.perf_counter() - started


def _of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
