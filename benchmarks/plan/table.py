"""What is predicted of runs that were measured, and the table of both."""

import dataclasses
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plan import runs
from lowrung.config import machine
from lowrung.costs import history, prediction
from lowrung.costs.facts import Planned
from lowrung.costs.prediction import Prediction, Speed
from lowrung.runs import inputs, planned
from lowrung.store.outcome import Outcome, Status


@dataclasses.dataclass(frozen=True)
class Row:
    """A run, as it was predicted and as it was.

    Attributes:
        name: the run's.
        peak: bytes that it held at most.
        predicted_peak: by the formulas.
        seconds: that it took.
        predicted_seconds: by the formulas and how fast the machine multiplies matrices.
        later: predicted once the runs above it in the table had been noted.
    """

    name: str
    peak: float
    predicted_peak: float
    seconds: float
    predicted_seconds: float
    later: Prediction

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Predicted over measured: memory, seconds, and seconds after the runs above."""
        return (
            self.predicted_peak / self.peak,
            self.predicted_seconds / self.seconds,
            self.later.seconds / self.seconds,
        )


def rows(measured: Sequence[Mapping[str, Any]]) -> list[Row]:
    """What is predicted of each run that was measured, by nothing but the formulas, and once others are known."""
    found, known = [], Path(tempfile.mkdtemp(prefix="lowrung-plan-"))
    lines_of = {line["name"]: line for line in measured}
    for name, config in runs.configs():
        if (line := lines_of.get(name)) is None:
            continue
        preflight = inputs.preflight(config)
        asked = planned.asked(config, preflight, line["threads"])
        if asked is None:
            raise SystemExit("\n".join([f"{name}: its sizes could not be counted", *preflight.problems]))
        asked = dataclasses.replace(asked, is_base_kept=line["is_base_kept"])
        first = prediction.predict(asked, Speed.unmeasured(asked, line["flops_per_second"], history.FORMULAS))
        later = prediction.predict(asked, history.speed(asked, known, line["flops_per_second"], [machine.described()]))
        facts = {"plan": Planned.of(first).facts, "verified_on": "cpu", "machine": machine.described()}
        history.note(asked, Outcome(Status.COMPLETE, measurements=line["measurements"], facts=facts), known)
        found.append(Row(name, line["peak_bytes"], first.memory.peak, line["seconds"], first.seconds, later))
    return found


def show(found: Sequence[Row]) -> None:
    """Prints the table, in Markdown, and the medians below it."""
    print("| run | memory | predicted | | time | predicted | | after those above | |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in found:
        memory, seconds, later = row.ratios
        print(
            f"| {row.name} | {row.peak / 1e6:.0f} MB | {row.predicted_peak / 1e6:.0f} MB | {memory:.2f}"
            f" | {row.seconds:.1f} s | {row.predicted_seconds:.1f} s | {seconds:.2f}"
            f" | {row.later.seconds:.1f} s | {later:.2f} |"
        )
    quantities = ("memory", "time", "time after those above")
    for name, ratios in zip(quantities, zip(*(row.ratios for row in found), strict=True), strict=True):
        errors = sorted(abs(ratio - 1) for ratio in ratios)
        print(f"{name}: {statistics.median(errors):.1%} off at the median, {errors[-1]:.0%} at most")
