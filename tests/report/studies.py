"""Studies as a report reads them, made up: no run is trained."""

import dataclasses
import math
import random
from pathlib import Path

from lowrung.report.record import Axis, Difference, HistoryPoint, RunRecord, StudyRecord, TrialRecord
from lowrung.store.outcome import Status

RANK = Axis("lora.r", values=("4", "8", "16", "32"), is_log=True)
RATE = Axis("train.learning_rate", low=1e-5, high=1e-2, is_log=True)
LORA = Axis("lora", values=("default", "dora", "pissa"))
DROPOUT = Axis("lora.dropout", low=0.0, high=0.2)


def history(end, steps=16, start=3.9, tokens=500.0):
    """A curve from the loss of the base to this one."""
    found = []
    for step in range(steps + 1):
        loss = end + (start - end) * math.exp(-4 * step / steps)
        metrics = {"eval/loss": loss} if step % 4 == 0 else {}
        if step:
            metrics["train/loss"] = loss - 0.05 + 0.02 * (step % 3)
        found.append(HistoryPoint(step, 7.0 * step, None if tokens is None else tokens * step, metrics))
    return found


def trial(number, point, loss=3.0, *, status=Status.COMPLETE, seeds=(0,), **more):
    """A trial whose runs end at this loss."""
    has_ended = status is not None and math.isfinite(loss)
    metrics = {"eval/loss": loss, "params/trainable": 305_280.0 * float(point.get("lora.r", 8))} if has_ended else {}
    measured = {"time/total_seconds": 100.0 + number % 7, "memory/peak_bytes": 2.1e9 + 1e7 * (number % 5)}
    reported = history(loss if math.isfinite(loss) else 3.5, 16 if status is Status.COMPLETE else 4)
    runs = [
        RunRecord(
            seed,
            status,
            metrics=metrics,
            measurements=measured,
            history=reported,
            started=1e9 + 120 * (number // 2),
            ended=None if status is None else 1e9 + 120 * (number // 2) + 100,
            slot=number % 2,
        )
        for seed in seeds
    ]
    return TrialRecord(number, point, status, runs=runs, metrics=metrics, measurements=measured, **more)


def study(trials, axes, **more):
    """A study of these trials, ranked by eval loss, with intervals around the difference from the best."""
    made = StudyRecord(
        "made-up", Path("multirun/made-up"), {"eval/loss": "minimize"}, axes, ranked(trials), "complete", len(trials)
    )
    return dataclasses.replace(made, **more)


def ranked(trials):
    def order(one):
        return (one.status is not Status.COMPLETE, one.metrics.get("eval/loss", math.inf), one.number)

    rows = sorted(trials, key=order)
    judged = [one for one in rows if one.status is Status.COMPLETE and "eval/loss" in one.metrics]
    best = judged[0].metrics["eval/loss"] if judged else math.nan
    return [_against(one, best, one is judged[0]) if one in judged else one for one in rows]


def _against(one, best, is_best):
    mean = one.metrics["eval/loss"] - best
    half = 0.004 + 0.2 * mean
    verdict = "best" if is_best else "tie" if mean < half else "worse"
    against = verdict if is_best else f"{verdict} {mean:+.3g} ± {half:.2g}"
    return dataclasses.replace(one, against=against, difference=Difference(mean, mean - half, mean + half, verdict))


def grid(ranks=("4", "8", "16", "32"), rates=("0.0001", "0.0003", "0.001", "0.003"), **more):
    """Rank by rate; the best is the largest rank at the second rate."""
    points = [{"lora.r": rank, "train.learning_rate": rate} for rank in ranks for rate in rates]
    losses = [
        2.8
        - 0.01 * math.log2(float(point["lora.r"]))
        + 0.2 * abs(math.log10(float(point["train.learning_rate"])) + 3.5)
        for point in points
    ]
    trials = [trial(number, point, loss) for number, (point, loss) in enumerate(zip(points, losses, strict=True))]
    axes = [dataclasses.replace(RANK, values=ranks), Axis("train.learning_rate", values=rates, is_log=True)]
    return study(trials, axes, **more)


def searched(count=60, seed=0, **more):
    """Intervals, a list of words and pruned trials."""
    draw = random.Random(seed)
    trials = []
    for number in range(count):
        point = {
            "lora.r": draw.choice(RANK.values),
            "train.learning_rate": str(10 ** draw.uniform(-5, -2)),
            "lora": draw.choice(LORA.values),
            "lora.dropout": str(draw.uniform(0, 0.2)),
        }
        rate = abs(math.log10(float(point["train.learning_rate"])) + 3.4)
        loss = 2.8 + 0.15 * rate**2 - 0.005 * math.log2(float(point["lora.r"])) + draw.gauss(0, 0.01)
        is_pruned = rate > 0.8 and draw.random() < 0.7
        trials.append(trial(number, point, loss, status=Status.PRUNED if is_pruned else Status.COMPLETE))
    return study(trials, [RANK, RATE, LORA, DROPOUT], **more)
