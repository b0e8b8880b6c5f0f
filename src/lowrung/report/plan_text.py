"""A sweep's plan as text."""

import dataclasses
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from lowrung.costs.units import duration, size
from lowrung.report import screen
from lowrung.report.planned import PlannedBudget, PlannedMemory, PlannedPoint, PlannedStage, PlannedSweep, PlannedTime
from lowrung.report.tables import counted, table

HALVED = {1: "half the batch", 2: "a quarter of the batch"}

MOST_ROWS = 30
"""Rows that a screen holds; of more points those that differ in nothing that is planned are one row."""


def text(plan: PlannedSweep) -> str:
    """The plan for people."""
    head = f"study {plan.study}: {'at most ' if plan.at_most else ''}{counted(plan.trials, 'trial')}"
    stage = [f"stage {plan.points[0].stage}"] if plan.later else []
    later = [_stage(each) for each in plan.later]
    facts = "\n".join(_filled(name, line) for name, line in _facts(plan))
    remedies = _remedies(plan.memory) if plan.memory and plan.memory.is_too_much else ""
    end = "a dry run: nothing was started"
    refused = f"warning: without hydra.sweeper.dry_run this sweep is refused: {plan.refused}" if plan.refused else ""
    parts = [f"{head}, {plan.slots} at a time", *stage, points(plan.points), *later, facts, remedies, refused, end]
    return "\n" + "\n\n".join(filter(None, parts))


def points(planned: Sequence[PlannedPoint]) -> str:
    """A table of points; one that would be longer than `MOST_ROWS` is shortened, and says so."""
    shown = [(point, 1) for point in planned] if len(planned) <= MOST_ROWS else _alike(planned)
    left_out = [point for point, _ in shown[MOST_ROWS:]]
    shown = shown[:MOST_ROWS]
    found = _table([point for point, _ in shown], [count for _, count in shown])
    if not left_out:
        return found
    return f"{found}\n{_in_short(left_out, len(planned) - sum(count for _, count in shown))}"


def _alike(planned: Sequence[PlannedPoint]) -> list[tuple[PlannedPoint, int]]:
    """Points of which the same is planned as one each, and how many they are. A value that differs is ``5 values``."""
    groups: dict[tuple[object, ...], list[PlannedPoint]] = {}
    for each in planned:
        key = (each.at, each.steps, each.trainable, each.memory_bytes, each.seconds, each.fits, _state(each))
        groups.setdefault((*key, tuple(each.seeds), tuple(each.point)), []).append(each)
    return [(_together(group), len(group)) for group in groups.values()]


def _together(group: Sequence[PlannedPoint]) -> PlannedPoint:
    values = {key: list(dict.fromkeys(each.point[key] for each in group)) for key in group[0].point}
    texts = {key: each[0] if len(each) == 1 else f"{len(each)} values" for key, each in values.items()}
    return dataclasses.replace(group[0], point=texts)


def _in_short(left_out: Sequence[PlannedPoint], count: int) -> str:
    """Points that are left out: how many, and from what to what."""
    parts = [
        _from_to([each.memory_bytes for each in left_out if each.memory_bytes is not None], size),
        _from_to([each.seconds for each in left_out if each.seconds is not None], duration),
    ]
    return f"and {', '.join(filter(None, [counted(count, 'point'), *parts]))}; --json has them all"


def _from_to(values: Sequence[float], shown: Callable[[float], str]) -> str:
    ends = dict.fromkeys(shown(end) for end in (min(values), max(values))) if values else ()
    return " to ".join(ends)


def _table(planned: Sequence[PlannedPoint], counts: Sequence[int]) -> str:
    keys = list(dict.fromkeys(key for point in planned for key in point.point))
    columns = {
        "at": [point.at for point in planned],
        **{key: [point.point.get(key, "") for point in planned] for key in keys},
        "points": [f"{count:,}" if max(counts) > 1 else "" for count in counts],
        "steps": [str(point.steps) for point in planned],
        "seeds": [",".join(map(str, point.seeds)) if len(point.seeds) > 1 else "" for point in planned],
        **dict(zip(("trainable", "memory", "time"), zip(*map(_numbers, planned), strict=True), strict=True)),
        "state": [_state(point) for point in planned],
    }
    filled = {title: cells for title, cells in columns.items() if any(cells)}
    return table(list(filled), list(zip(*filled.values(), strict=True)), left=("state", "at"))


def _numbers(point: PlannedPoint) -> list[str]:
    return [
        "" if point.trainable is None else f"{point.trainable:,}",
        "" if point.memory_bytes is None else size(point.memory_bytes),
        "" if point.seconds is None else duration(point.seconds),
    ]


def _state(point: PlannedPoint) -> str:
    """What is done already, or keeps it from being done."""
    runs = len(point.seeds)
    if point.left_out is not None:
        return f"left out ({point.left_out})"
    if point.kept == runs:
        return "in the store"
    if point.halvings:
        return HALVED.get(point.halvings, f"1/{2**point.halvings} of the batch")
    if point.fits is False:
        return "may not fit"
    if point.kept:
        return f"{point.kept} of {runs} in the store"
    if point.from_step:
        return f"goes on from step {point.from_step}"
    return "drawn" if _is_drawn(point) else "to train"


def _is_drawn(point: PlannedPoint) -> bool:
    return bool(point.at) or any("interval(" in value for value in point.point.values())


def _stage(stage: PlannedStage) -> str:
    most = f"at most {counted(stage.trials, 'trial')}, {counted(stage.runs, 'run')}"
    costs = [
        *([] if stage.memory_bytes is None else [size(stage.memory_bytes)]),
        *([] if stage.seconds is None else [f"{duration(stage.seconds)} of runs"]),
    ]
    return f"stage {stage.name}: {stage.start}: {', '.join([most, *costs])}"


def _facts(plan: PlannedSweep) -> Iterator[tuple[str, str]]:
    if plan.memory is None:
        yield "memory", "not known, nor is the time: the sizes of the model could not be counted"
    else:
        yield from _memory(plan.memory)
    if plan.time is not None:
        yield "time", _time(plan, plan.time)
        yield "slots", _slots(plan, plan.time)
    if plan.disk_bytes is not None:
        yield "disk", f"{size(plan.disk_bytes)} will be taken in the store, {size(plan.disk_free)} are free"
    if plan.budget is not None:
        yield "budget", _budget(plan.budget, "at most " if plan.time and plan.time.at_most else "")
    if plan.kept:
        yield "done", f"{plan.kept} of {counted(plan.runs, 'run')} are in the store"
    for note in plan.notes:
        yield "note", note
    for guess in plan.guesses:
        yield "guess", guess


def _memory(memory: PlannedMemory) -> Iterator[tuple[str, str]]:
    of = "" if memory.room is None else f"; a run has {size(memory.room)} of {memory.room_name}"
    name = " ".join(f"{key}={value}" for key, value in memory.point.items() if "interval(" not in value)
    most = f"{size(memory.predicted)}{f' in the largest run ({name})' if name else ''}"
    yield "memory", f"{most}{of}{', so it does not fit' if memory.is_too_much else ''}"
    parts = ", ".join(f"{part} {size(held)}" for part, held in memory.parts.items() if held)
    phases = [f"{name} {size(held)}" for name, held in memory.phases.items() if held]
    phases = [f"{each} ({parts})" if each.startswith("training ") else each for each in phases]
    yield "", f"one after the other: {', '.join(phases)}"
    if not 0.995 < memory.correction < 1.005:
        yield "", f"each multiplied by {memory.correction:.2f}, as runs here have measured"


def _remedies(memory: PlannedMemory) -> str:
    """Settings with which the largest run would fit."""
    if not memory.remedies:
        return "none of the settings that were tried makes the largest run fit"
    rows = [
        [
            " ".join(remedy.settings),
            size(remedy.memory_bytes),
            *([] if remedy.seconds is None else [duration(remedy.seconds)]),
            remedy.price,
        ]
        for remedy in memory.remedies
    ]
    head = ["with", "memory", *(["time"] if len(rows[0]) == 4 else []), "at the price"]
    one = "one of these" if len(rows) > 1 else "this"
    return f"the largest run fits with {one}:\n{table(head, rows, left=('with', 'at the price'))}"


def _time(plan: PlannedSweep, time: PlannedTime) -> str:
    if time.ends is None:
        is_kept_back = any(point.left_out for point in plan.points) or (plan.budget is not None and plan.budget.runs)
        return "no run starts" if is_kept_back else "nothing is left to train"
    most = "at most " if time.at_most else ""
    return f"{most}{duration(time.seconds)}, until {clock(time.ends)}; by {time.source}"


def _budget(budget: PlannedBudget, most: str) -> str:
    head = f"{budget.hours:.3g} {budget.unit}, {budget.spent:.3g} spent"
    if not budget.runs:
        return f"{head}, nothing is left to train"
    if budget.needed is None or budget.starts is None:
        return f"{head}; what the plan needs is not known"
    price = budget.cost_per_hour
    cost = "" if price is None else f", which cost {budget.needed * price:.2f} at {price:g} an hour"
    needs = f"the plan needs {most}{budget.needed:.3g}{cost}"
    return f"{head}, {needs}: {_starting(budget.starts, budget.runs)}"


def _starting(starts: int, runs: int) -> str:
    if starts == runs:
        return f"all {runs} runs start" if runs > 1 else "the one run starts"
    if not starts:
        return f"none of {runs} runs starts" if runs > 1 else "the one run does not start"
    return f"{starts} of {runs} runs start, and time, slots and disk are those of these"


def clock(iso: str, now: datetime | None = None) -> str:
    """A moment as a clock shows it, with the day where it is not today's."""
    moment, now = datetime.fromisoformat(iso), now or datetime.now()
    return f"{moment:%H:%M}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M}"


def _slots(plan: PlannedSweep, time: PlannedTime) -> str:
    threads = counted(plan.threads, "thread")
    idle = f", idle for {time.idle:.0%} of the time" if time.idle >= 0.005 else ""
    return f"{plan.slots}, each of {threads}{idle}"


def _filled(name: str, line: str) -> str:
    """A named line, its further lines below its text."""
    columns, indent = screen.width(), " " * 8
    line = screen.printable(line)
    if columns is None:
        return f"{name:<8}{line}"
    return textwrap.fill(
        line, max(columns, 20), initial_indent=f"{name:<8}", subsequent_indent=indent, break_long_words=False
    )
