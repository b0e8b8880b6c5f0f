"""Whether two runs have the same results to the bit: metrics, learning curve, scores by example, what was trained."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lowrung.errors import StoreError, in_short, some
from lowrung.reproduction.findings import Difference, Part
from lowrung.reproduction.recorded import Recorded
from lowrung.store import mailbox, results
from lowrung.store.held_out import HeldOut
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome
from lowrung.track.base import Point

WEIGHTS = ".safetensors"

SPEED = "train/tokens_per_second"
"""A measurement that runs report, also those that diverge before it is among their measurements."""


def of(recorded: Recorded, again: RunFolder, now: Outcome) -> list[Part]:
    """Compares a run that was made again with the recorded one, part by part."""
    then = recorded.outcome
    measured = {*then.measurements, *now.measurements, SPEED}
    return [
        _metrics(then, now),
        _curve(_points(recorded.run), _points(again), measured),
        _held_out(recorded.run.held_out, again.held_out),
        _files(recorded.run, again, then.files),
    ]


def _metrics(then: Outcome, now: Outcome) -> Part:
    names = sorted({*then.metrics, *now.metrics})
    differences = [
        _of_numbers(name, then.metrics.get(name), now.metrics.get(name))
        for name in names
        if then.metrics.get(name) != now.metrics.get(name)
    ]
    if then.status != now.status:
        differences.insert(0, Difference("status", then.status, f"{now.status}: {now.cause}"))
    return Part("metrics", len(names), differences)


def _of_numbers(what: str, then: float | None, now: float | None) -> Difference:
    apart = math.inf if then is None or now is None else abs(then - now)
    return Difference(what, _exact(then), _exact(now), apart)


def _exact(value: float | None) -> str:
    """A number in as many digits as tell it from any other."""
    return "-" if value is None else repr(float(value))


# -- learning curve ----------------------------------------------------------------------------------------------------

Curves = Mapping[str, Mapping[int, float]]
"""By metric its values by step; the last one counts where a step was reported twice."""


def _points(run: RunFolder) -> Curves:
    curves: dict[str, dict[int, float]] = {}
    for report in mailbox.Reader(run.path).read():
        point = report.into(Point)
        for name, value in point.metrics.items():
            curves.setdefault(name, {})[point.step] = value
    return curves


def _curve(then: Curves, now: Curves, measured: set[str]) -> Part:
    name = "points of the learning curve"
    if not then:
        return Part(name, 0, notes=["the recorded run has no reports.jsonl: its learning curve is not compared"])
    metrics = sorted({*then, *now} - measured)
    pairs = {metric: _by_step(then.get(metric, {}), now.get(metric, {})) for metric in metrics}
    found = [difference for metric in metrics if (difference := _of_curve(metric, pairs[metric]))]
    return Part(name, sum(map(len, pairs.values())), found)


def _by_step(then: Mapping[int, float], now: Mapping[int, float]) -> dict[int, tuple[float | None, float | None]]:
    return {step: (then.get(step), now.get(step)) for step in sorted({*then, *now})}


def _of_curve(metric: str, pairs: Mapping[int, tuple[float | None, float | None]]) -> Difference | None:
    differing = {step: _of_numbers("", *pair) for step, pair in pairs.items() if pair[0] != pair[1]}
    if not differing:
        return None
    worst = max(differing, key=lambda step: differing[step].apart or 0.0)
    what = f"{metric} at {len(differing)} of {len(pairs)} steps, the first {min(differing)}, the most at {worst}"
    return dataclasses.replace(differing[worst], what=what)


# -- scores by example -------------------------------------------------------------------------------------------------


def _held_out(then: Path, now: Path) -> Part:
    name = "held-out examples"
    if not now.is_file() or not then.is_file():
        gone = [] if then.is_file() else [f"{then.name} of the recorded run is gone: scores by example by digest alone"]
        return Part(name, 0, notes=gone if now.is_file() else [])
    try:
        one = HeldOut.read(then)
    except StoreError as error:
        return Part(name, 0, [Difference(then.name, f"cannot be read ({in_short(error)})", "scores by example")])
    other = HeldOut.read(now)
    columns, again = _columns(one), _columns(other)
    found = [
        difference
        for column in dict.fromkeys([*columns, *again])
        if (difference := _of_examples(column, columns.get(column), again.get(column)))
    ]
    if one.data != other.data:
        found.insert(0, Difference("held-out rows as tokens", one.data, other.data))
    return Part(name, len(other.tokens), found)


def _columns(scores: HeldOut) -> dict[str, np.ndarray]:
    return {"tokens": scores.tokens, "nll": scores.nll, "right": scores.right, **scores.answers}


def _of_examples(column: str, then: np.ndarray | None, now: np.ndarray | None) -> Difference | None:
    if then is None or now is None or then.shape != now.shape:
        one, other = ("-" if each is None else f"{len(each)} examples" for each in (then, now))
        return Difference(f"{column} by example", one, other, math.inf)
    differing = ~((then == now) | (np.isnan(then) & np.isnan(now)))
    if not differing.any():
        return None
    distance = np.where(differing, np.nan_to_num(np.abs(then.astype(float) - now), nan=math.inf), -1.0)
    worst = int(distance.argmax())
    what = f"{column} of {int(differing.sum())} of {len(then)} examples, the most of example {worst}"
    return dataclasses.replace(_of_numbers("", float(then[worst]), float(now[worst])), what=what)


# -- files -------------------------------------------------------------------------------------------------------------


def _files(then: RunFolder, now: RunFolder, noted: Mapping[str, str]) -> Part:
    """Compares what was trained: by digest, and by value where that differs."""
    old, new = results.digests(then), results.digests(now)
    differences: list[Difference] = []
    notes: list[str] = []
    names = sorted({*noted, *old, *new} - ({then.held_out.name} if then.held_out.is_file() else set()))
    for name in names:
        was, made = noted.get(name), new.get(name)
        if name in old and was not in (None, old[name]):
            ended = "which the new run made too" if was == made else "nor what the new run made"
            notes.append(f"{name} was changed since the recorded run ended: it is not what that run left, {ended}")
        if name not in old and was == made:
            notes.append(f"{name} of the recorded run is gone; its digest is that of the new one")
        elif old.get(name) != made:
            found = _of_files(name, then.path / name, now.path / name)
            if found is None:
                notes.append(f"{name} holds the same values in other bytes")
            else:
                differences.append(found)
    return Part("files that were trained", len(names), differences, notes)


def _of_files(name: str, then: Path, now: Path) -> Difference | None:
    """How two files differ by value; None where they do not."""
    if not then.is_file() or not now.is_file():
        one, other = ("there" if path.is_file() else "missing" for path in (then, now))
        return Difference(name, one, other, math.inf)
    try:
        if then.suffix == WEIGHTS:
            return _of_weights(name, then, now)
        if then.suffix == ".json":
            return _of_json(name, json.loads(then.read_bytes()), json.loads(now.read_bytes()))
    except Exception as error:  # what safetensors raises has no base but Exception
        return Difference(name, f"cannot be read ({in_short(error)})", "whole")
    return Difference(name, f"{then.stat().st_size} bytes", f"{now.stat().st_size} bytes, other ones")


def _of_weights(name: str, then: Path, now: Path) -> Difference | None:
    from lowrung.adapters.apart import apart  # imports torch

    found = apart(then, now)
    if not found.differing:
        return None
    what = f"{name}: {found.differing} of {found.tensors} tensors, the most in {found.name}"
    return Difference(what, "", "", found.largest)


def _of_json(name: str, then: Any, now: Any) -> Difference | None:
    if then == now:
        return None
    if not isinstance(then, dict) or not isinstance(now, dict):
        return Difference(name, "other values", "other values")
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    one, other = (some([f"{key}={values.get(key)}" for key in keys]) for values in (then, now))
    return Difference(name, one, other)
