"""Whole sweeps of a model of a real size: plan beside facts, the gate, and several workers on a card."""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import lowrung
from benchmarks.gpu import shapes
from lowrung.engine.base import Ended, Exit, Job
from lowrung.engine.local import LocalEngine
from lowrung.store import records
from lowrung.store.layout import RunFolder
from lowrung.sweeps.entry import PRELOAD

Note = Callable[[str, Any], None]
"""Keeps one result under its name."""

MODEL = Path("model")

WORKERS = (4, 2, 1)
"""On one card. The first is the shortest by trial, should time be over."""

STEPS = 60

FACTS = (
    "plan/memory_bytes", "memory/peak_bytes", "plan/seconds", "time/total_seconds", "time/train_seconds",
    "time/gate_seconds", "train/tokens_per_second", "eval/loss", "base/eval_loss",
)  # fmt: skip
"""What is kept of a run's metrics and measurements, beside the gate's."""


def measure(name: str, device: torch.device, note: Note) -> None:
    """Runs in bfloat16 and in nf4, each predicted before and with its gate; then several trials at once.

    All sweeps are this process's, so that they share one fork server, as those of a notebook do.
    """
    with tempfile.TemporaryDirectory(prefix="lowrung-gpu-") as scratch, contextlib.chdir(scratch):
        _write(shapes.SHAPES[name], device)
        for label, quantization in (("bfloat16", "none"), ("nf4", "nf4")):
            own = [f"model.quantization={quantization}", "train.max_steps=10", "train.eval_steps=10"]
            note(f"gate {label}", _sweep(f"gate-{label}", 1, device, [*own, "verify.merge_dtype=bfloat16"]))
        for count in WORKERS:
            seeds = "seed=" + ",".join(str(seed) for seed in range(count))
            own = [seeds, f"train.max_steps={STEPS}", f"train.eval_steps={STEPS}", "verify=none"]
            note(f"workers {count}", _sweep(f"workers-{count}", count, device, own))


def _write(shape: shapes.Shape, device: torch.device) -> None:
    """Writes the model in a process of its own, which gives the card back when it ends."""
    with LocalEngine(preload=PRELOAD) as engine:
        engine.submit(Job("model", Path("written"), functools.partial(shapes.write, shape, MODEL.absolute(), device)))
        [ended] = [event for event in engine.wait() if isinstance(event, Ended)]
    if ended.exit is not Exit.RETURNED:
        raise RuntimeError(f"the model could not be written: {ended.cause}")


def _sweep(name: str, count: int, device: torch.device, own: Sequence[str]) -> dict[str, Any]:
    """Runs a sweep with a store of its own, and reads what its runs recorded."""
    key = "workers_per_gpu" if device.type == "cuda" else "workers"
    settings = [
        f"model.path={MODEL.absolute()}", "model.dtype=bfloat16", "data=number_words", "data.train_size=512",
        "data.eval_size=16", "data.metrics=[]", "train.batch_size=8", "train.save_steps=0", "track=none",
        f"hydra.launcher.{key}={count}", f"study={name}", f"store={name}", *own,
    ]  # fmt: skip
    why = {}
    try:
        lowrung.sweep(settings)
    except lowrung.LowrungError as error:
        why = {"failed": str(error)}
    runs = [RunFolder(path.parent) for path in sorted(Path(name).glob("*/outcome.json"))]
    return {**(summary(runs) if runs else {}), **why}


def summary(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """What runs that began at once recorded.

    Returns:
        ``runs``, each with its status and numbers; ``trials_per_hour``, from the first one's start to the last one's
        end, imports and loading included; and ``tokens_per_second`` of all while they trained.
    """
    found, ends, begins = [], [], []
    for run in runs:
        outcome = records.read(run.outcome)
        numbers = {**outcome["metrics"], **outcome["measurements"]}
        kept = {key: value for key, value in numbers.items() if key in FACTS or key.startswith("merge/")}
        failures = outcome["facts"].get("gate_failures", [])
        found.append({"status": outcome["status"], "cause": outcome.get("cause"), "gate_failures": failures, **kept})
        ends.append(run.outcome.stat().st_mtime)
        begins.append(ends[-1] - numbers.get("time/total_seconds", 0.0))
    done = sum(run["status"] == "complete" for run in found)
    return {
        "runs": found,
        "trials_per_hour": 3600 * done / (max(ends) - min(begins)) if done else None,
        "tokens_per_second": sum(run.get("train/tokens_per_second", 0.0) for run in found),
    }
