"""A sweep's results in one table, best first."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lowrung.report import pareto
from lowrung.report.tables import table
from lowrung.store import atomic
from lowrung.store.outcome import Outcome, Status, passed_gate


@dataclasses.dataclass(frozen=True, slots=True)
class Seed:
    """One run of a trial.

    Attributes:
        seed: what it was trained with.
        outcome: how it ended.
        folder: its results.
    """

    seed: int
    outcome: Outcome
    folder: str


@dataclasses.dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial.

    Attributes:
        number: the trial's.
        point: what was chosen, by key, as text.
        outcome: how it ended, over its seeds.
        seeds: its runs.
        is_reused: whether all results were there before the trial began.
        broken: the constraints that it does not keep to.
        over_seeds: metrics that are not the mean over the seeds, each with ``median`` or ``worst``.
        stage: the names of the stages that it counts for; empty where the sweep has none.
        stage_index: of the last one of them: the trials of the last stage rank first.
    """

    number: int
    point: Mapping[str, str]
    outcome: Outcome
    seeds: Sequence[Seed]
    is_reused: bool = False
    broken: Sequence[str] = ()
    over_seeds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stage: str = ""
    stage_index: int = 0

    def spread(self, name: str) -> float | None:
        """The standard deviation of a metric over the seeds (of a sample: n - 1), where two or more have it."""
        complete = [seed.outcome.metrics for seed in self.seeds if seed.outcome.status is Status.COMPLETE]
        values = [metrics[name] for metrics in complete if name in metrics]
        return statistics.stdev(values) if len(values) > 1 else None


def ranked(rows: Sequence[TrialRow], objectives: Mapping[str, str]) -> list[TrialRow]:
    """Complete trials by the first objective, best first; then those that break a constraint, then the others.

    The trials of a later stage come before those of the stages that it starts from.

    With several objectives the Pareto set comes first, see `pareto_set`. The other objectives decide between equals.
    """
    in_front = pareto_set(rows, objectives)

    def rank(row: TrialRow) -> tuple[bool, bool, int, bool, list[float], int]:
        has_score = _has_score(row, objectives)
        order = _costs(row, objectives) if has_score else []
        return (not has_score, bool(row.broken), -row.stage_index, row.number not in in_front, order, row.number)

    return sorted(rows, key=rank)


def pareto_set(rows: Sequence[TrialRow], objectives: Mapping[str, str]) -> frozenset[int]:
    """The numbers of the trials that no other trial is better than in all objectives; none where there is one alone.

    Only complete trials count that keep to all constraints and have a finite value of each objective.

    Args:
        rows: all trials.
        objectives: metrics and their directions.
    """
    if len(objectives) < 2:
        return frozenset()
    kept = [row for row in rows if row.outcome.status is Status.COMPLETE and not row.broken]
    is_in = pareto.front([_costs(row, objectives) for row in kept])
    return frozenset(row.number for row, inside in zip(kept, is_in, strict=True) if inside)


def _costs(row: TrialRow, objectives: Mapping[str, str]) -> list[float]:
    """The objectives' values, of which less is better; infinite where a value is missing or not finite."""
    signed = [
        (-1 if direction == "maximize" else 1) * row.outcome.metrics.get(name, math.nan)
        for name, direction in objectives.items()
    ]
    return [value if math.isfinite(value) else math.inf for value in signed]


def _has_score(row: TrialRow, objectives: Mapping[str, str]) -> bool:
    """Whether a trial has a rank: it was trained to its end, and the first objective was measured."""
    return row.outcome.status is Status.COMPLETE and _costs(row, objectives)[0] < math.inf


AGAINST = "against the best"


def render(
    rows: Sequence[TrialRow], objectives: Mapping[str, str], against: Mapping[int, str] = MappingProxyType({})
) -> str:
    """The table as text.

    Args:
        rows: all trials.
        objectives: metrics and their directions; the first one ranks.
        against: the column `AGAINST` by the trials' numbers; without any there is no such column.
    """
    head, cells = columns(rows, objectives, against)
    left = [title for title in head if title.startswith(("stage", "eval loss", AGAINST, "merged")) or not title]
    return table(head, cells, left=left)


def columns(
    rows: Sequence[TrialRow], objectives: Mapping[str, str], against: Mapping[int, str] = MappingProxyType({})
) -> tuple[list[str], list[list[str]]]:
    """The table's titles and its cells, best first; see `render`."""
    rows, in_front = ranked(rows, objectives), pareto_set(rows, objectives)
    keys = list(dict.fromkeys(key for row in rows for key in row.point))
    extra = [name for name in objectives if name != "eval/loss"]
    has_answers = any("eval/exact_match" in row.outcome.metrics for row in rows)
    if has_answers and "eval/exact_match" not in extra:
        extra.append("eval/exact_match")
    how = {name: f" ({used})" for row in rows for name, used in row.over_seeds.items()}
    scores = [f"{name}{how.get(name, '')}" for name in extra] + [AGAINST] * bool(against)
    loss = f"eval loss{how.get('eval/loss', '')}"
    stages = ["stage"] if any(row.stage for row in rows) else []
    head = ["#", "trial", *stages, *keys, "trainable", loss, *scores, "merged vs adapter", "seconds", ""]
    cells = [
        [
            str(rank) if _has_score(row, objectives) else "-",
            *_cells(row, keys, extra, row.number in in_front, bool(stages)),
        ]
        for rank, row in enumerate(rows, start=1)
    ]
    if against:
        for row, texts in zip(rows, cells, strict=True):
            texts.insert(-3, against.get(row.number, ""))
    return head, cells


def _cells(row: TrialRow, keys: Sequence[str], extra: Sequence[str], is_in_front: bool, has_stages: bool) -> list[str]:
    metrics, complete = row.outcome.metrics, row.outcome.status is Status.COMPLETE
    trainable = f"{metrics['params/trainable']:,.0f}" if "params/trainable" in metrics else ""
    base = f"{metrics['base/eval_loss']:.3f} → " if "base/eval_loss" in metrics else ""
    loss = f"{base}{_value(row, 'eval/loss', '.3f')}" if "eval/loss" in metrics else ""
    seconds = row.outcome.measurements.get("time/total_seconds")
    notes = ["Pareto"] * is_in_front + ["reused"] * row.is_reused
    notes += [f"not {bound}" for bound in row.broken] if complete else [row.outcome.status]
    return [
        str(row.number),
        *([row.stage] if has_stages else []),
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


def write(
    path: Path,
    rows: Sequence[TrialRow],
    objectives: Mapping[str, str],
    against: Mapping[int, Mapping[str, Any]] = MappingProxyType({}),
    spent: Mapping[int, Mapping[str, float]] = MappingProxyType({}),
) -> None:
    """Leaves the table as JSON, best first.

    Args:
        path: the file.
        rows: all trials.
        objectives: metrics and their directions; the first one ranks.
        against: where trials stand against the best, by number.
        spent: what trials have used of the study's budget, by number and name.
    """
    in_front = pareto_set(rows, objectives)
    records = [{**_record(row), "against_best": against.get(row.number)} for row in ranked(rows, objectives)]
    records = [{**record, **spent.get(record["trial"], {})} for record in records]
    if len(objectives) > 1:
        records = [{**record, "pareto": record["trial"] in in_front} for record in records]
    atomic.write_json(path, records)


def _record(row: TrialRow) -> dict[str, Any]:
    return {
        "trial": row.number,
        **({"stage": row.stage} if row.stage else {}),
        "point": dict(row.point),
        "status": row.outcome.status,
        "cause": row.outcome.cause,
        "metrics": dict(row.outcome.metrics),
        "measurements": dict(row.outcome.measurements),
        "reused": row.is_reused,
        "broken": list(row.broken),
        "over_seeds": dict(row.over_seeds),
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
