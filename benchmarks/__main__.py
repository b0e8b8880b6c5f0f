"""``python -m benchmarks``: lowrung's sweeps against Hydra's batches, and what the coordinator costs.

The tables are printed, and all numbers are written to ``benchmarks/results/sweeps.json``.
"""

import argparse
import datetime
import multiprocessing
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import simulation
from benchmarks.measure import WAYS, measure
from lowrung.config import signature
from lowrung.store import atomic

RESULTS = Path(__file__).parent / "results" / "sweeps.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and records."""
    asked = _parser().parse_args(arguments)
    record: dict[str, Any] = {"about": _about(), "sweeps": [], "long_sweeps": []}
    for way in WAYS:
        for seed in range(asked.repeats):
            record["sweeps"].append(_apart(way, asked.runs, asked.slots, seed))
            atomic.write_json(asked.out, record)  # as it goes: all of it takes long
    for way in WAYS if asked.long else ():
        record["long_sweeps"].append(_apart(way, asked.long, asked.slots, 0))
        atomic.write_json(asked.out, record)
    show(record)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=500, help="simulated runs of a sweep")
    parser.add_argument("--slots", type=int, default=8, help="runs at the same time")
    parser.add_argument("--repeats", type=int, default=3, help="sweeps of each way, each with other lengths")
    parser.add_argument("--long", type=int, default=2000, help="runs of one long sweep of each way; 0 for none")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    return parser


def _apart(way: str, runs: int, slots: int, seed: int) -> dict[str, Any]:
    """Measures in a process of its own, whose memory is that of one sweep."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (way, runs, slots, seed))


def _about() -> dict[str, Any]:
    """What the numbers depend on; nothing that names the machine."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": signature.git_commit(),
        "versions": signature.versions(("hydra-core", "omegaconf", "optuna", "mlflow", "sqlalchemy")),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 1),
        "median_run_seconds": simulation.MEDIAN_SECONDS,
        "sigma": simulation.SIGMA,
        "reports_per_run": simulation.REPORTS,
    }


def show(record: dict[str, Any]) -> None:
    """Prints the record's tables."""
    idle = Table("way", "runs", "slots", "idle, schedule", "idle", "ms/trial", "CPU ms/trial", title="idle slots")
    for sweep in record["sweeps"]:
        taken = [f"{1000 * sweep['coordinator'][kind]['seconds_per_trial']:.0f}" for kind in ("wall", "cpu")]
        shares = [f"{sweep[name]:.1%}" for name in ("idle_share_of_schedule", "idle_share")]
        idle.add_row(sweep["way"], str(sweep["runs"]), str(sweep["slots"]), *shares, *taken)
    growth = Table("way", "runs", "mean", "median", "p99", "first 100", "last 100", "MiB", "KiB/trial")
    growth.title = "CPU milliseconds per trial, and memory, over a long sweep"
    for sweep in record["long_sweeps"]:
        names = ("mean", "median", "p99", "first_median", "last_median")
        cpu = sweep["coordinator"]["cpu"]
        times = ["" if cpu[name] is None else f"{1000 * cpu[name]:.0f}" for name in names]
        memory = sweep["memory"]
        slope = "" if memory["kibibytes_per_trial"] is None else f"{memory['kibibytes_per_trial']:.1f}"
        growth.add_row(sweep["way"], str(sweep["runs"]), *times, f"{memory['mebibytes'][-1]:.0f}", slope)
    console = Console()
    console.print(idle)
    if record["long_sweeps"]:
        console.print(growth)


if __name__ == "__main__":
    main()
