"""Whole runs on a real card: one sweep of three trials, two at a time, in bfloat16, nf4 and int8, with their gates."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lowrung.costs import facts
from lowrung.store import records as stored
from lowrung.store.layout import RunFolder
from lowrung.store.mailbox import Reader
from lowrung.store.outcome import Status
from tests.terminal import train

QUANTIZATIONS = ("none", "nf4", "int8")
TOUCHED = "importing them once for all jobs touched CUDA"
"""What a sweep says where its jobs are not forked."""

TRAINING = "model=tiny data=number_words data.train_size=256 data.metrics=[] train.max_steps=40 track=none"


@pytest.fixture(scope="module")
def runs(device: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Any]]:
    """Each run's outcome by its quantisation, with ``began`` and ``ended``: the times of its first and last report."""
    folder: Path = tmp_path_factory.mktemp("sweep")
    workers = "hydra.launcher.workers_per_gpu=2" if device == "cuda" else "hydra.launcher.workers=2"
    swept = f"model.dtype=bfloat16 model.quantization={','.join(QUANTIZATIONS)} verify.merge_dtype=bfloat16"
    done = train(folder, "-m", *TRAINING.split(), *swept.split(), workers, "study=gpu")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for path in (folder / "multirun" / "gpu").glob("*/run"):
        run = RunFolder(path.resolve())
        times = [report["time"] for report in Reader(run.path).read()]
        quantization = next(name for name in QUANTIZATIONS if f"quantization: {name}" in run.config.read_text())
        ends = {"began": min(times), "ended": max(times), "is_forked": TOUCHED not in done.stderr}
        found[quantization] = {**stored.read(run.outcome), **ends}
    return found


@pytest.mark.gpu(seconds=100)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_run_passes_its_gate(runs, device, records, quantization):
    run = runs[quantization]
    gate = {name: value for name, value in run["metrics"].items() if name.startswith("merge/")}
    records({"status": run["status"], "gate": gate, "measurements": run["measurements"], "is_forked": run["is_forked"]})
    assert run["status"] == "complete", run["cause"]
    assert run["facts"]["gate_failures"] == []
    assert run["metrics"]["merge/passed"] == 1.0
    assert run["facts"]["verified_on"] == device
    assert run["metrics"]["eval/loss"] < run["metrics"]["base/eval_loss"]


@pytest.mark.gpu(seconds=100)
def test_runs_are_forked(runs):
    """Importing the libraries once must not touch CUDA, though bitsandbytes is installed."""
    assert all(run["is_forked"] for run in runs.values())


@pytest.mark.gpu(seconds=100)
def test_two_runs_trained_at_the_same_time(runs):
    spans = [(run["began"], run["ended"]) for run in runs.values()]
    assert any(a[0] < b[1] and b[0] < a[1] for a, b in itertools.combinations(spans, 2))


@pytest.mark.gpu(seconds=100)
def test_what_was_planned_stands_beside_what_was_measured(runs, records):
    """`make bench-gpu` compares them at real sizes; of a tiny model, the workspaces of cuBLAS are the most."""
    found = {}
    for quantization, run in runs.items():
        numbers = {**run["metrics"], **run["measurements"]}
        found[quantization] = facts.of(Status(run["status"]), numbers, run["facts"])
    records({name: {plan: each.ratio for plan, each in compared.items()} for name, compared in found.items()})
    assert all(each[name].ratio is not None for each in found.values() for name in facts.MEASURED)
    assert all(each[facts.TRAINABLE].ratio == 1.0 for each in found.values())
