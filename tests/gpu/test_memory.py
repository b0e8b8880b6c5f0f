"""A real card's memory: what a run is said to take, and what happens when there is none left."""

import os
import re
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lowrung.engine.base import Ended, Exit, Job
from lowrung.engine.local import LocalEngine
from lowrung.store import records as stored
from lowrung.store.layout import RunFolder
from tests.engine.contract import end_of, events_of
from tests.gpu import jobs
from tests.terminal import PATIENCE, command, environment

FREE = 3 * 2**30
"""Bytes that are left to a run that needs more: room for CUDA's context, the model and a small batch."""

TOO_LARGE = 8192
"""Rows of a batch that some 12 GB would hold: less than a card has, or the plan would halve it beforehand."""


@pytest.mark.gpu(seconds=40)
def test_the_peak_of_a_run_is_what_torch_says(device, records, tmp_path):
    with LocalEngine(1) as engine:
        engine.submit(Job("a", tmp_path, partial(jobs.train, tmp_path, device, {})))
        ended = end_of(engine, "a")
    assert ended.exit is Exit.RETURNED, ended.cause
    found = ended.value
    records({name: value for name, value in found.items() if "bytes" in name or "memory" in name})
    assert found["peak_bytes"] > found["weight_bytes"]
    if device == "cuda":
        assert found["peak_bytes"] == found["max_memory_allocated"] <= found["max_memory_reserved"]


@pytest.mark.gpu(seconds=60)
def test_float32_is_what_a_cpu_computes(device, records, tmp_path):
    """With TF32 off, which is torch's default; 1e-4 is ten times what orders of sums differ by over six steps."""
    with LocalEngine(2) as engine:
        for key, kind, env in (("card", device, {}), ("cpu", "cpu", {"CUDA_VISIBLE_DEVICES": ""})):
            engine.submit(Job(key, tmp_path / key, partial(jobs.train, tmp_path / key, kind, {}), env=env))
        ends = {event.key: event for event in events_of(engine, "card", "cpu") if isinstance(event, Ended)}
    assert [each.exit for each in ends.values()] == [Exit.RETURNED] * 2, [each.cause for each in ends.values()]
    card, cpu = ends["card"].value, ends["cpu"].value
    pairs = [*zip(card["losses"], cpu["losses"], strict=True), (card["eval_loss"], cpu["eval_loss"])]
    differences = [abs(one - other) for one, other in pairs]
    of_base = abs(card["base_loss"] - cpu["base_loss"])
    records({"largest_loss_difference": max(differences), "of_the_base": of_base, "allows_tf32": card["allows_tf32"]})
    assert not card["allows_tf32"]
    assert of_base < 1e-5
    assert max(differences) < 1e-4


@pytest.mark.gpu(seconds=90)
def test_a_run_without_memory_is_oom_alone_and_is_tried_again_with_half_the_batch(device, records, tmp_path):
    """A neighbour holds the card's memory but for 3 GB, which no plan can know, and gives it back after the error.

    On a CPU, the limit of a process's memory stands for it, and half of the batch may find none either.
    """
    ready, done, log = tmp_path / "ready", tmp_path / "done", tmp_path / "log"
    settings = f"model=tiny data=number_words data.metrics=[] data.train_size={TOO_LARGE} train.batch_size={TOO_LARGE}"
    rest = "train.max_steps=2 train.eval_batch_size=8 data.eval_size=8 model.dtype=float32 verify=none track=none"
    limited = ["prlimit", "--as=9000000000"] if device == "cpu" else []
    with LocalEngine(1, ["torch"]) as engine, log.open("w") as file:
        engine.submit(Job("holder", tmp_path / "holder", partial(jobs.hold_all_but, device, FREE, ready, done)))
        jobs.await_file(ready)
        sweep = subprocess.Popen(
            [*limited, *command("-m", *settings.split(), *rest.split(), "study=oom")],
            cwd=tmp_path, env={**environment(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        while not _outcomes(tmp_path) and sweep.poll() is None:
            time.sleep(0.05)
        done.touch()
        held = end_of(engine, "holder")
        sweep.wait(PATIENCE)
    found = _outcomes(tmp_path)
    records({str(size): {name: each.get(name) for name in ("status", "cause")} for size, each in found.items()})
    assert found[TOO_LARGE]["status"] == "oom", log.read_text()
    assert sorted(found) == [TOO_LARGE // 2, TOO_LARGE]
    assert found[TOO_LARGE // 2]["status"] == "complete" or device == "cpu"
    assert (held.exit, held.value) == (Exit.RETURNED, 1024.0**3)


def _outcomes(folder: Path) -> dict[int, dict[str, Any]]:
    """Those of the runs so far, by the rows of their batches."""
    runs = [RunFolder(path.parent) for path in folder.glob("runs/*/outcome.json")]
    batches = [re.search(r"\bbatch_size: (\d+)", run.config.read_text()) for run in runs]
    return {int(size[1]): stored.read(run.outcome) for size, run in zip(batches, runs, strict=True) if size}
