"""A sweep's results in one table, best first."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.report.tables import table
from lowrung.store import atomic
from lowrung.store.outcome import Outcome, Status, passed_gate


@dataclasses.dataclass(frozen=True)
class Seed:
    """One run of a trial.

    Attributes:
        seed: what it was trained with.
        outcome: how it ended.
        folder: its results.
        tracked: the tracker's id of it.
    """

    seed: int
    outcome: Outcome
    folder: str
    tracked: str = ""


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """One trial.

    Attributes:
        number: the trial's.
        point: what was chosen, by key, as text.
        outcome: how it ended, over its seeds.
        seeds: its runs.
        is_reused: whether all results were there before this sweep.
        broken: the constraints that it does not keep to.
    """

    number: int
    point: Mapping[str, str]
    outcome: Outcome
    seeds: Sequence[Seed]
    is_reused: bool = False
    broken: Sequence[str] = ()

    def spread(self, name: str) -> float | None:
        """The standard deviation of a metric over the seeds (of a sample: n - 1), where two or more have it."""
        complete = [seed.outcome.metrics for seed in self.seeds if seed.outcome.status is Status.COMPLETE]
        values = [metrics[name] for metrics in complete if name in metrics]
        return statistics.stdev(values) if len(values) > 1 else None


def ranked(rows: Sequence[TrialRow], objectives: Mapping[str, str]) -> list[TrialRow]:
    """Complete trials by the first objective, best first; then those that break a constraint, then the others."""
    name, direction = next(iter(objectives.items()))
    sign = -1 if direction == "maximize" else 1

    def rank(row: TrialRow) -> tuple[bool, bool, float, int]:
        value = row.outcome.metrics.get(name) if row.outcome.status is Status.COMPLETE else None
        return (value is None, bool(row.broken), 0.0 if value is None else sign * value, row.number)

    return sorted(rows, key=rank)


def render(rows: Sequence[TrialRow], objectives: Mapping[str, str]) -> str:
    """The table as text.

    Args:
        rows: all trials.
        objectives: metrics and their directions; the first one ranks.
    """
    rows = ranked(rows, objectives)
    keys = list(dict.fromkeys(key for row in rows for key in row.point))
    extra = [name for name in objectives if name != "eval/loss"]
    has_answers = any("eval/exact_match" in row.outcome.metrics for row in rows)
    if has_answers and "eval/exact_match" not in extra:
        extra.append("eval/exact_match")
    head = ["#", "trial", *keys, "trainable", "eval loss", *extra, "merged vs adapter", "seconds", ""]
    cells = [_cells(rank, row, keys, extra) for rank, row in enumerate(rows, start=1)]
    return table(head, cells, left=("eval loss", "merged vs adapter", ""))


def _cells(rank: int, row: TrialRow, keys: Sequence[str], extra: Sequence[str]) -> list[str]:
    metrics, complete = row.outcome.metrics, row.outcome.status is Status.COMPLETE
    trainable = f"{metrics['params/trainable']:,.0f}" if "params/trainable" in metrics else ""
    loss = f"{metrics['base/eval_loss']:.3f} → {_value(row, 'eval/loss', '.3f')}" if "eval/loss" in metrics else ""
    seconds = row.outcome.measurements.get("time/total_seconds")
    notes = ["reused"] * row.is_reused + [f"not {bound}" for bound in row.broken] if complete else [row.outcome.status]
    return [
        str(rank) if complete else "-",
        str(row.number),
        *(shown(row.point.get(key, "")) for key in keys),
        trainable,
        loss,
        *(_value(row, name, ".4g") if name in metrics else "" for name in extra),
        _gate(metrics),
        f"{seconds:.0f}" if seconds is not None else "",
        ", ".join(notes),
    ]


def _value(row: TrialRow, name: str, digits: str) -> str:
    """A metric, with its spread where there are several seeds."""
    spread = row.spread(name)
    return f"{row.outcome.metrics[name]:{digits}}" + ("" if spread is None else f" ± {spread:.2g}")


def shown(value: str) -> str:
    """A choice's value for people: a drawn number with four digits, anything else as it is."""
    try:
        return f"{float(value):.4g}" if len(value) > 8 else value
    except ValueError:
        return value


def name(point: Mapping[str, str]) -> str:
    """A point in one line: ``lora.r=4 train.learning_rate=0.0003``."""
    return " ".join(f"{key}={shown(value)}" for key, value in point.items())


def _gate(metrics: Mapping[str, float]) -> str:
    passed = passed_gate(metrics)
    if passed is None:
        return ""
    result = "passed" if passed else "FAILED"
    if "merge/max_abs_logit_diff" not in metrics:  # the adapter could not even be loaded
        return result
    return f"{result}  max |Δlogit| {metrics['merge/max_abs_logit_diff']:.1e}"


def write(path: Path, rows: Sequence[TrialRow], objectives: Mapping[str, str]) -> None:
    """Leaves the table as JSON, best first."""
    atomic.write_json(path, [_record(row) for row in ranked(rows, objectives)])


def _record(row: TrialRow) -> dict[str, Any]:
    return {
        "trial": row.number,
        "point": dict(row.point),
        "status": row.outcome.status,
        "cause": row.outcome.cause,
        "metrics": dict(row.outcome.metrics),
        "measurements": dict(row.outcome.measurements),
        "reused": row.is_reused,
        "broken": list(row.broken),
        "runs": [
            {
                "seed": seed.seed,
                "status": seed.outcome.status,
                "metrics": dict(seed.outcome.metrics),
                "results": seed.folder,
            }
            for seed in row.seeds
        ],
    }
