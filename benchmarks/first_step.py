"""How long a run of a sweep takes to its first step, and how much of that is reading the model.

``python -m benchmarks.first_step`` starts a sweep of four learning rates, one after the other, in a temporary folder.
The fork server, which a sweep's runs are forked from, imports this module beside its own ones, and so the runs write
down when they come to their first step. The first run evaluates the base and measures how logits are computed; the
others are warm.
"""

import json
import os
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

_LOG = "LOWRUNG_BENCHMARK_FIRST_STEP"
"""The file that runs write to; set in the benchmark's processes alone."""

_TRAIN = Path(__file__).resolve().parents[1] / "src" / "train.py"
_RATES = "1e-4,2e-4,3e-4,4e-4"


def _watch(log: Path) -> None:
    """Has each process forked from this one write a line at its first step."""
    from lowrung.finetune.models import pretrained
    from lowrung.finetune.training.trainer import LabelledTrainer

    reading = [0.0, 0.0]
    load_base, training_step = pretrained.load_base, LabelledTrainer.training_step

    def timed(*args: Any, **kwargs: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return load_base(*args, **kwargs)
        finally:
            reading[0] += time.perf_counter() - wall
            reading[1] += time.process_time() - cpu

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 0:
            wall = time.time() - psutil.Process().create_time()
            line = {"wall": [wall, reading[0]], "cpu": [time.process_time(), reading[1]]}
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return training_step(self, *args, **kwargs)

    pretrained.load_base = timed
    LabelledTrainer.training_step = noted  # type: ignore[method-assign]


def main() -> None:
    """Runs the sweep, and prints a line for each run and the medians of the warm ones."""
    from lowrung.sweeps import entry

    with tempfile.TemporaryDirectory(prefix="lowrung-benchmark-") as folder:
        log = Path(folder) / "first_steps.jsonl"
        os.environ[_LOG] = str(log)
        entry.PRELOAD = (*entry.PRELOAD, "benchmarks.first_step")
        os.chdir(folder)
        rates = [f"train.learning_rate={_RATES}", "train.max_steps=1", "verify=none", "study=first_step"]
        sys.argv = ["train.py", "-m", *rates, f"store={folder}/store", *sys.argv[1:]]
        _quietly(lambda: runpy.run_path(str(_TRAIN), run_name="__main__"))
        runs = [json.loads(line) for line in log.read_text().splitlines()]
    for number, run in enumerate(runs):
        print(f"run {number}: {_said(run)}")
    print(f"warm:  {_said({kind: _median([run[kind] for run in runs[1:]]) for kind in ('wall', 'cpu')})}")


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except SystemExit as end:
        if end.code:
            raise


def _median(several: list[list[float]]) -> list[float]:
    return [statistics.median(values) for values in zip(*several, strict=True)]


def _said(run: dict[str, list[float]]) -> str:
    each = (f"{total:.2f} s {kind}, of which {read:.2f} reading the model" for kind, (total, read) in run.items())
    return ", ".join(each)


if __name__ == "__main__":
    main()
elif __name__ == "benchmarks.first_step" and _LOG in os.environ:  # multiprocessing imports a main module once more
    _watch(Path(os.environ[_LOG]))
