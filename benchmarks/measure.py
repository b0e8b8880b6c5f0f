"""One simulated sweep, measured: how idle its slots were, what the coordinator took, what memory it held."""

import contextlib
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks import ways
from benchmarks.simulation import Mark, SimulatedEngine, batch_makespan, free_slot_makespan, lengths

WAYS: dict[str, Callable[[SimulatedEngine, int], None]] = {
    "lowrung": partial(ways.lowrung, tracks=False),
    "lowrung, mlflow": partial(ways.lowrung, tracks=True),
    "batches": ways.batches,
}

PART = 100
"""Trials at the start and at the end whose times are compared, and trials between two measurements of the memory."""


def measure(
    way: str, runs: int, slots: int, seed: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Runs one simulated sweep in a temporary folder.

    Args:
        way: one of `WAYS`.
        runs: trials of the sweep.
        slots: how many run at the same time.
        seed: of the runs' lengths.
        clock: see `SimulatedEngine`.

    Returns:
        ``idle_share`` with the coordinator's time, ``idle_share_of_schedule`` without, and what `coordinator` and
        `memory` return.
    """
    drawn = lengths(runs, seed)
    engine = SimulatedEngine(drawn, slots, seed, clock)
    with tempfile.TemporaryDirectory(prefix="lowrung-benchmark-") as folder, contextlib.chdir(folder):
        WAYS[way](engine, runs)
    makespan = (batch_makespan if way == "batches" else free_slot_makespan)(drawn, slots)
    return {
        "way": way,
        "runs": runs,
        "slots": slots,
        "seed": seed,
        "makespan_seconds": engine.makespan,
        "idle_share": engine.idle_share,
        "idle_share_of_schedule": 1 - sum(drawn) / (slots * makespan),
        "coordinator": coordinator(engine.marks, slots),
        "memory": memory(engine.marks),
    }


def coordinator(marks: Sequence[Mark], slots: int) -> dict[str, Any]:
    """What the coordinator took per trial.

    A trial's time is that from one submission to the next: the end of one run, the reports that came meanwhile, and
    the start of the next. The first starts, where nothing ends, are left out of all but the mean over the sweep.

    Args:
        marks: of each submission and of the end.
        slots: how many runs started at once.

    Returns:
        seconds of the set-up before the first trial, and for the wall clock and the processor's the mean over the
        sweep, and mean, median, 99th percentile, and medians of the first and the last trials; None where those
        would be the same trials.
    """
    return {
        "setup_seconds": marks[0].seconds,
        "wall": _times([mark.seconds for mark in marks], slots),
        "cpu": _times([mark.cpu_seconds for mark in marks], slots),
    }


def _times(sums: Sequence[float], slots: int) -> dict[str, float | None]:
    each = [after - before for before, after in itertools.pairwise(sums[:-1])][slots - 1 :]
    is_long = len(each) >= 2 * PART
    return {
        "seconds_per_trial": (sums[-1] - sums[0]) / (len(sums) - 1),
        "mean": statistics.fmean(each),
        "median": statistics.median(each),
        "p99": sorted(each)[math.ceil(0.99 * len(each)) - 1],
        "first_median": statistics.median(each[:PART]) if is_long else None,
        "last_median": statistics.median(each[-PART:]) if is_long else None,
    }


def memory(marks: Sequence[Mark]) -> dict[str, Any]:
    """Memory over the sweep.

    Returns:
        MiB every `PART` trials, and the slope in KiB per trial of a straight line through the later three quarters,
        when imports and caches are there; None for sweeps too short for one.
    """
    positions = range(0, len(marks), PART)
    mebibytes = [marks[position].memory / 2**20 for position in positions]
    warm = len(mebibytes) // 4
    slope = None
    if len(mebibytes) - warm > 2:
        slope = statistics.linear_regression(list(positions)[warm:], mebibytes[warm:]).slope * 1024
    return {"mebibytes": [round(value, 1) for value in mebibytes], "kibibytes_per_trial": slope}
