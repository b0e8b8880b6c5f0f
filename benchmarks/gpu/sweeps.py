"""Whole sweeps of a model of a real size: plan beside facts, the gate, and several workers on a card."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowrung.store import records
from lowrung.store.layout import ROOT, RunFolder

Note = Callable[[str, Any], None]
"""Keeps one result under its name."""

WORKERS = (4, 2, 1)
"""On one card. The first is the shortest by trial, should time be over."""

STEPS = 60

FACTS = (
    "plan/memory_bytes", "memory/peak_bytes", "plan/seconds", "time/total_seconds", "time/train_seconds",
    "time/gate_seconds", "train/tokens_per_second", "eval/loss", "base/eval_loss",
)  # fmt: skip
"""What is kept of a run's metrics and measurements, beside the gate's."""


def gates(name: str, device: str, note: Note) -> None:
    """A run in bfloat16 and one in nf4, each predicted before and with its gate."""
    with tempfile.TemporaryDirectory(prefix="lowrung-gpu-") as scratch:
        _write(name, device, Path(scratch, "model"))
        for quantization in ("none", "nf4"):
            own = [f"model.quantization={quantization}", "train.max_steps=10", "train.eval_steps=10"]
            found = _sweep(Path(scratch), f"gate-{quantization}", 1, device, [*own, "verify.merge_dtype=bfloat16"])
            note({"none": "bfloat16"}.get(quantization, quantization), found)


def workers(name: str, device: str, note: Note) -> None:
    """As many trials at once as there are workers on the card, with each number of workers."""
    with tempfile.TemporaryDirectory(prefix="lowrung-gpu-") as scratch:
        _write(name, device, Path(scratch, "model"))
        for count in WORKERS:
            seeds = "seed=" + ",".join(str(seed) for seed in range(count))
            own = [seeds, f"train.max_steps={STEPS}", f"train.eval_steps={STEPS}", "verify=none"]
            note(f"workers {count}", _sweep(Path(scratch), f"workers-{count}", count, device, own))


def _write(name: str, device: str, folder: Path) -> None:
    """Writes the model in a process of its own, which gives the card back when it ends."""
    code = (
        "import sys, torch; from pathlib import Path; from benchmarks.gpu import shapes;"
        "shapes.write(shapes.SHAPES[sys.argv[1]], Path(sys.argv[3]), torch.device(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, name, device, str(folder)], check=True)


def _sweep(scratch: Path, name: str, count: int, device: str, own: Sequence[str]) -> dict[str, Any]:
    """Runs a sweep with a store of its own, and reads what its runs recorded."""
    folder = scratch / name
    folder.mkdir()
    key = "workers_per_gpu" if device == "cuda" else "workers"
    settings = [
        f"model.path={scratch / 'model'}", "model.dtype=bfloat16", "data=number_words", "data.train_size=512",
        "data.eval_size=16", "data.metrics=[]", "train.batch_size=8", "train.save_steps=0", "track=none",
        f"hydra.launcher.{key}={count}", f"study={name}", *own,
    ]  # fmt: skip
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", *settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    runs = [RunFolder(path.parent) for path in sorted(folder.glob("runs/*/outcome.json"))]
    if done.returncode and not runs:
        return {"failed": (done.stderr or done.stdout).strip()[-2000:]}
    return summary(runs)


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
