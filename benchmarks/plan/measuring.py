"""What a run takes in a process of its own: memory, time, and both by its phases."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowrung.config import machine
from lowrung.config.schema import Config
from lowrung.finetune.found import Preflight
from lowrung.runs import inputs
from lowrung.runs.folder import prepare_folder
from lowrung.store import layout


def count_own_seconds() -> None:
    """Has a process with one thread take its CPU seconds for the time: those of a machine that does nothing else."""
    time.perf_counter = time.process_time


def measure(config: Config, preflight: Preflight) -> dict[str, Any]:
    """Trains in this process, and says what it took.

    Args:
        config: the run's.
        preflight: what was found of its model and data.
    """
    from lowrung.finetune.training import memory
    from lowrung.runs import execution
    from lowrung.runs.computation import Computation

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    config = inputs.pinned(config, preflight)
    folder = layout.run_folder(Path(config.store).absolute(), inputs.run_signature(config, preflight, threads))
    folder.outcome.unlink(missing_ok=True)
    base = inputs.base_folder(config, preflight, threads)
    is_base_kept = layout.base_scores(base, config.train.eval_batch_size).exists()
    claim = prepare_folder(folder, config, preflight, threads)
    marks: list[float] = []
    stop, samples = _sampled()
    started = time.perf_counter()
    outcome = execution.execute(
        Computation(config, folder, preflight.data_folder, base, threads),
        claim=claim,
        planned=None,
        on_point=lambda point: marks.append(time.perf_counter()),
        stop_reason=lambda: None,
    )
    took = time.perf_counter() - started
    stop.set()
    if outcome.status != "complete":
        raise SystemExit(f"{outcome.status}: {outcome.cause}")
    return {
        "measurements": dict(outcome.measurements),
        "trainable": outcome.metrics["params/trainable"],
        "peak_bytes": memory.peak_bytes(),
        "phases": _phases(samples, marks),
        "seconds": took,
        "first_point_seconds": marks[0] - started,
        "last_point_seconds": marks[-1] - started,
        "flops_per_second": preflight.flops_per_second,
        "is_base_kept": is_base_kept,
        "threads": threads,
        "machine": machine.processor(),
    }


def _sampled() -> tuple[threading.Event, list[tuple[float, int]]]:
    """What this process has resident from now on, every 20 ms, until the event is set."""
    stop, samples = threading.Event(), list[tuple[float, int]]()

    def sample() -> None:
        while not stop.wait(0.02):
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            samples.append((time.perf_counter(), resident))

    threading.Thread(target=sample, daemon=True).start()
    return stop, samples


def _phases(samples: Sequence[tuple[float, int]], marks: Sequence[float]) -> dict[str, int]:
    """The most that was resident while the base was loaded and scored, in training, and after its last report."""
    ends = {"base": marks[0], "training": marks[-1], "gate": float("inf")}
    found, last = {}, 0.0
    for name, end in ends.items():
        found[name] = max((resident for at, resident in samples if last <= at < end), default=0)
        last = end
    return found
