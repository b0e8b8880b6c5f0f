"""The one JSON that the tests and the benchmark of a GPU write."""

import ctypes.util
import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.gpu.needed import ROOT
from benchmarks.peers import machine
from benchmarks.peers.summary import as_json
from lowrung.engine import gpus
from lowrung.store import atomic

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"

OUT = "LOWRUNG_GPU_RESULTS"
"""The variable that names another file; empty writes nothing."""

BUNDLE = ROOT / "bundle.json"
"""What a bundle says of itself; absent in a checkout."""


def file(device: str) -> Path | None:
    """Where results go: what `OUT` says, else `RESULTS` of a GPU, and nowhere where a CPU stands for one."""
    if OUT in os.environ:
        return Path(os.environ[OUT]) if os.environ[OUT] else None
    return RESULTS if device == "cuda" else None


def has_gpu() -> bool:
    """Whether there is one, also where `gpus.visible` does not see it: what uses it says so then."""
    return bool(gpus.visible()) or (gpus.VISIBLE not in os.environ and ctypes.util.find_library("cuda") is not None)


@functools.cache
def about(device: str) -> dict[str, Any]:
    """The machine, its cards and the versions. A CPU that stands for a GPU is called so."""
    bundle = json.loads(BUNDLE.read_text(encoding="utf-8")) if BUNDLE.exists() else {}
    known = {**machine.about({}), "device": device, "cards": cards() if device == "cuda" else []}
    return {**known, "commit": bundle.get("commit", known["commit"])}


def cards() -> list[str]:
    """Each visible card with its memory and driver, by nvidia-smi; it touches no CUDA in this process."""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        return [f"not known: {error}"]


_IDENTITY = ("device", "cards", "commit", "versions")


def add(out: Path | None, device: str, kind: str, name: str, value: Any) -> None:
    """Writes one result beside those that are there; those of another card, commit or version are dropped.

    Args:
        out: the file, or None to write nothing.
        device: ``cuda``, or ``cpu`` where a CPU stands for one.
        kind: ``tests`` or ``parts``.
        name: of the test, or of the benchmark's part.
        value: what was found.
    """
    if out is None:
        return
    now = about(device)
    record = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if any(record.get("about", {}).get(key) != now.get(key) for key in _IDENTITY):
        record = {"about": now}
    record.setdefault(kind, {})[name] = as_json(value)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(out, record)
