"""``python -m benchmarks.gpu``: what a card does, in under six minutes; ``--page`` writes the tables of docs/gpus.md.

Each part runs in a process of its own with a limit of its own, and what it has found is in the JSON at once. A part
that is not done in time is ended, and what it had found stays. docs/gpus.md says what is measured.
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu import page, results

LIMIT = 345.0
"""Seconds of all parts together; the rest of six minutes is for their ends."""

LEAST = 15.0
"""Seconds without which a part is not begun: it imports torch and TRL first."""

GRACE = 10.0
"""Seconds that a part's processes have to end."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One measurement of a shape, and the seconds that it may take; ``nf4`` is ``steps`` on a quantised base."""

    kind: str
    shape: str
    seconds: float

    @property
    def name(self) -> str:
        """In the JSON."""
        return f"{self.kind} {self.shape}"


PARTS = (
    Part("steps", "0.5B", 60), Part("steps", "8B", 75), Part("gates", "0.5B", 70), Part("workers", "0.5B", 110),
    Part("nf4", "1.5B", 60), Part("steps", "1.5B", 55),
)  # fmt: skip
"""The most valuable first: what the earlier ones leave of their time is the later ones'."""

TINY = tuple(Part(kind, "tiny", 120) for kind in ("steps", "nf4", "workers", "gates"))
"""The same code on a CPU. What it measures says nothing about anything."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, or writes the page; 1 where a part has failed, or the page cannot be written."""
    asked = _arguments(arguments)
    if asked.page:
        return page.main(asked.json or results.RESULTS, asked.docs)
    if asked.part:
        return _measure(asked.part, asked.device, asked.json)
    if asked.device == "cuda" and not results.has_gpu():
        print("skipped: no NVIDIA GPU is visible here; docs/gpus.md says how `make bench-gpu` runs where one is")
        return 0
    parts = [part for part in (TINY if asked.shapes == "tiny" else PARTS) if part.kind in asked.parts]
    out = asked.json or results.file(asked.device)
    began = time.monotonic()
    found = [run(part, asked.device, out, time.monotonic() - began) for part in parts]
    return int(any("failed" in each for each in found))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the benchmark itself out")
    parser.add_argument("--shapes", choices=["real", "tiny"], default="real", help="tiny models, for a CPU")
    kinds = [part.kind for part in TINY]
    parser.add_argument("--parts", nargs="+", choices=kinds, default=kinds, help="only these")
    parser.add_argument("--json", type=Path, help="the file with the results; of a CPU nothing is kept by default")
    parser.add_argument("--page", action="store_true", help="measures nothing: writes the tables from that file")
    parser.add_argument("--docs", type=Path, default=page.DOCS, help="the page that has the tables")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.device == "cpu" and asked.shapes == "real" and not (asked.page or asked.part):
        parser.error("--device cpu must have --shapes tiny: models of real sizes would take hours")
    return asked


def run(
    part: Part, device: str, out: Path | None, spent: float, command: Sequence[str] | None = None, least: float = LEAST
) -> dict[str, Any]:
    """Runs a part to its end, or to that of its time, and keeps in the JSON what it has found.

    Args:
        part: what is measured.
        device: ``cuda``, or ``cpu`` where a CPU stands for one.
        out: the JSON; None keeps nothing.
        spent: seconds that other parts have taken.
        command: of the part's process, which gets the path of its results; None is this module.
        least: seconds without which it is not begun.
    """
    limit = min(part.seconds, LIMIT - spent) if device == "cuda" else part.seconds
    if limit < least:
        found: dict[str, Any] = {"ended": f"not begun: {spent:.0f} of {LIMIT:.0f} s had passed"}
    else:
        found = _run(part, limit, command or _command(part, device))
    results.add(out, device, "parts", part.name, found)
    done = found.get("failed") or found.get("ended") or f"{found['seconds']:.0f} s"
    print(f"{part.name}: {done.splitlines()[-1]}", flush=True)
    return found


def _command(part: Part, device: str) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.gpu", "--device", device, "--part", part.kind, part.shape, "--json"]


def _run(part: Part, limit: float, command: Sequence[str]) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lowrung-gpu-") as scratch:
        own, log = Path(scratch, "found.json"), Path(scratch, "log.txt")
        why: dict[str, Any] = {}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, str(own)], stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "TMPDIR": scratch, "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip
            try:
                code = process.wait(limit)
                if code:
                    why = {"failed": log.read_text(encoding="utf-8", errors="replace").strip()[-2000:] or str(code)}
            except subprocess.TimeoutExpired:
                why = {"ended": f"after {limit:.0f} s, before all was measured"}
            finally:
                _end(process)
        found = json.loads(own.read_text(encoding="utf-8")) if own.exists() else {}
    return {**found, "seconds": time.monotonic() - began, **why}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process with all that it started: a sweep hears SIGTERM, and ends its runs."""
    deadline = time.monotonic() + GRACE
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _measure(part: Sequence[str], device: str, out: Path) -> int:
    """Measures in this process; what is found is written after each batch or sweep."""
    from lowrung.store import atomic

    kind, shape = part
    found: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        found[name] = value
        atomic.write_json(out, found)

    if kind in ("steps", "nf4"):
        import torch

        from benchmarks.gpu import steps

        steps.measure(shape, "nf4" if kind == "nf4" else "none", torch.device(device), note)
    else:
        from benchmarks.gpu import sweeps

        {"gates": sweeps.gates, "workers": sweeps.workers}[kind](shape, device, note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
