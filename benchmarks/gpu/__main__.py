"""``python -m benchmarks.gpu``: what a card does, in under six minutes; ``--page`` writes the tables of docs/gpus.md.

Everything is imported once, and each part is a job of lowrung's own engine, forked from what was imported. What a part
has found is kept when its time is over, when it fails, and when all is killed. docs/gpus.md says what is measured.
"""

import argparse
import dataclasses
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import page, results
from lowrung.engine import cores
from lowrung.engine.base import Ended, Exit, Job
from lowrung.engine.local import LocalEngine
from lowrung.errors import LowrungError
from lowrung.store import mailbox
from lowrung.store.layout import RunFolder

LIMITS = {"cuda": 345.0, "cpu": 1800.0}
"""Seconds of the import and all parts together; the rest of six minutes is for their ends."""

LEAST = 5.0
"""Seconds without which a part is not begun."""

KILLED = "the benchmark was killed before all was measured"
"""Why a part is not whole, as long as it is measured."""

PRELOAD = ("benchmarks.gpu.steps", "benchmarks.gpu.sweeps", "lowrung.api", "lowrung.sweeps.entry")
"""What the parts import, beside the runs of sweeps, which have a fork server of their own."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One measurement of a shape, and its share of the time that is left; ``nf4`` is ``steps`` on a quantised base."""

    kind: str
    shape: str
    share: float = 1.0

    @property
    def name(self) -> str:
        """In the JSON."""
        return f"{self.kind} {self.shape}"


PARTS = (
    Part("steps", "0.5B", 0.4), Part("steps", "8B", 0.5), Part("sweeps", "0.5B", 0.7), Part("nf4", "1.5B", 0.6),
    Part("steps", "1.5B"),
)  # fmt: skip
"""The most valuable first. A part that needs less than its share leaves the rest to all that follow."""

TINY = tuple(Part(kind, "tiny") for kind in ("steps", "nf4", "sweeps"))
"""The same code on a CPU. What it measures says nothing about anything."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, or writes the page; 1 where a part has failed, or the page cannot be written."""
    asked = _arguments(arguments)
    if asked.page:
        return page.main(asked.json or results.RESULTS, asked.docs)
    if asked.device == "cuda" and not results.has_gpu():
        print("skipped: no NVIDIA GPU is visible here; docs/gpus.md says how `make bench-gpu` runs where one is")
        return 0
    parts = [part for part in (TINY if asked.shapes == "tiny" else PARTS) if part.kind in asked.parts]
    return int(_all_of(parts, asked.device, asked.json or results.file(asked.device)))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the benchmark itself out")
    parser.add_argument("--shapes", choices=["real", "tiny"], default="real", help="tiny models, for a CPU")
    kinds = [part.kind for part in TINY]
    parser.add_argument("--parts", nargs="+", choices=kinds, default=kinds, help="only these")
    parser.add_argument("--json", type=Path, help="the file with the results; of a CPU nothing is kept by default")
    parser.add_argument("--page", action="store_true", help="measures nothing: writes the tables from that file")
    parser.add_argument("--docs", type=Path, default=page.DOCS, help="the page that has the tables")
    asked = parser.parse_args(arguments)
    if asked.device == "cpu" and asked.shapes == "real" and not asked.page:
        parser.error("--device cpu must have --shapes tiny: models of real sizes would take hours")
    return asked


def _all_of(parts: Sequence[Part], device: str, out: Path | None) -> bool:
    """Measures part after part, and keeps each in the JSON; whether one has failed."""
    end, has_failed = time.monotonic() + LIMITS[device], False
    with (
        tempfile.TemporaryDirectory(prefix="lowrung-gpu-") as scratch,
        cores.environment({"TMPDIR": scratch, "HF_HUB_OFFLINE": "1"}),
        LocalEngine(preload=PRELOAD) as engine,
    ):
        run(engine, Path(scratch, "import"), bool, LIMITS[device])  # does nothing, once all is imported
        for part in parts:
            folder = Path(scratch, part.name)
            keep = functools.partial(results.add, out, device, "parts", part.name)
            task = functools.partial(_measure, part, device, folder)
            found = run(engine, folder, task, part.share * (end - time.monotonic()), keep)
            keep(found)
            has_failed |= "failed" in found
    return has_failed


def run(
    engine: LocalEngine,
    folder: Path,
    task: Callable[[], Any],
    limit: float,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Runs a part to its end, or to that of its time.

    Args:
        engine: which runs nothing else.
        folder: the job's. The last part of its path is the part's name.
        task: posts what it finds to the folder's mailbox, each under its name.
        limit: seconds; less than `LEAST` are not begun.
        keep: called with all that was found so far, each time that it is more.

    Returns:
        what it has found and its seconds; where it was not done the reason too, as ``ended`` or ``failed``.
    """
    began = time.monotonic()
    found: dict[str, Any] = {"ended": f"not begun: {limit:.0f} s were left for it"}
    if limit >= LEAST:
        try:
            found = _run(engine, Job(folder.name, folder, task), limit, keep)
        except LowrungError as error:
            found = {"failed": str(error)}
    found["seconds"] = time.monotonic() - began
    done = found.get("failed") or found.get("ended") or f"{found['seconds']:.0f} s"
    print(f"{folder.name}: {done.splitlines()[-1]}", flush=True)
    return found


def _run(engine: LocalEngine, job: Job, limit: float, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    engine.submit(job)
    found: dict[str, Any] = {}
    end = time.monotonic() + limit
    while True:
        if time.monotonic() >= end:
            engine.cancel(job.key)
        for event in engine.wait(max(1.0, end - time.monotonic())):
            if isinstance(event, Ended):
                return {**found, **_why(event, job.folder, limit)}
            found[event.report["name"]] = event.report["value"]
            keep({**found, "ended": KILLED})


def _why(ended: Ended, folder: Path, limit: float) -> dict[str, str]:
    """Why a part was not done; nothing where it was."""
    if ended.exit is Exit.RETURNED:
        return {}
    if ended.exit is Exit.CANCELLED:
        return {"ended": f"after {limit:.0f} s, before all was measured"}
    log = RunFolder(folder).log
    printed = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return {"failed": f"{printed[-2000:]}\n{ended.cause}".strip()}


def _measure(part: Part, device: str, folder: Path) -> None:
    """Measures in a job; what is found is posted after each batch or sweep."""
    import torch

    from benchmarks.gpu import steps, sweeps

    def note(name: str, value: Any) -> None:
        mailbox.post(folder, {"name": name, "value": value})

    if part.kind == "sweeps":
        sweeps.measure(part.shape, torch.device(device), note)
    else:
        steps.measure(part.shape, "nf4" if part.kind == "nf4" else "none", torch.device(device), note)


if __name__ == "__main__":
    sys.exit(main())
