"""A sweep's plan as text."""

import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime

from lowrung.report import screen
from lowrung.report.planned import PlannedMemory, PlannedPoint, PlannedStage, PlannedSweep, PlannedTime
from lowrung.report.tables import counted, table

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size(count: float) -> str:
    """Bytes in three digits: ``2.31 GB``, which is 2,310,000,000."""
    for unit, name in _UNITS:
        if count >= 0.9995 * unit:
            return f"{_three(count / unit)} {name}"
    return f"{count:.0f} B"


def _three(value: float) -> str:
    return f"{value:.{max(0, 3 - len(str(int(value + 0.5))))}f}" if value < 999.5 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds for people: ``40 s``, ``25 min``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        hours, minutes = divmod(minutes, 60)
        return _units((hours, "h"), (minutes, "min"))
    days, hours = divmod(round(seconds / 3600), 24)
    return _units((days, "d"), (hours, "h"))


def _units(*parts: tuple[int, str]) -> str:
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def text(plan: PlannedSweep) -> str:
    """The plan for people."""
    head = f"study {plan.study}: {_trials(plan)}, {plan.slots} at a time"
    stage = [f"stage {plan.points[0].stage}"] if plan.later else []
    later = [_stage(each) for each in plan.later]
    facts = "\n".join(_filled(name, line) for name, line in _facts(plan))
    parts = [head, *stage, _table(plan.points), *later, facts, "a dry run: nothing was started"]
    return "\n" + "\n\n".join(filter(None, parts))


def _trials(plan: PlannedSweep) -> str:
    return f"{'at most ' if plan.at_most else ''}{counted(plan.trials, 'trial')}"


def _table(points: Sequence[PlannedPoint]) -> str:
    keys = list(dict.fromkeys(key for point in points for key in point.point))
    has_seeds = any(len(point.seeds) > 1 for point in points)
    is_known = any(point.trainable is not None for point in points)
    has_cases = any(point.at for point in points)
    head = [*(["at"] if has_cases else []), *keys, "steps", *(["seeds"] if has_seeds else [])]
    head += [*(["trainable", "memory", "time"] if is_known else []), ""]
    rows = [
        [
            *([point.at] if has_cases else []),
            *(point.point.get(key, "") for key in keys),
            str(point.steps),
            *([",".join(map(str, point.seeds))] if has_seeds else []),
            *(_numbers(point) if is_known else []),
            _state(point),
        ]
        for point in points
    ]
    return table(head, rows, left=("", "at"))


def _numbers(point: PlannedPoint) -> list[str]:
    return [
        "" if point.trainable is None else f"{point.trainable:,}",
        "" if point.memory_bytes is None else size(point.memory_bytes),
        "" if point.seconds is None else duration(point.seconds),
    ]


def _state(point: PlannedPoint) -> str:
    """What is done already, or keeps it from being done."""
    runs = len(point.seeds)
    if point.kept == runs:
        return "in the store"
    if point.fits is False:
        return "does not fit"
    if point.kept:
        return f"{point.kept} of {runs} in the store"
    if point.from_step:
        return f"goes on from step {point.from_step}"
    return "drawn when it starts" if _is_drawn(point) else "to train"


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
        yield "time", _time(plan.time)
        yield "slots", _slots(plan, plan.time)
    if plan.disk_bytes is not None:
        yield "disk", f"{size(plan.disk_bytes)} will be taken in the store, {size(plan.disk_free)} are free"
    if plan.kept:
        yield "done", f"{plan.kept} of {counted(plan.runs, 'run')} are in the store"
    for note in plan.notes:
        yield "note", note
    for guess in plan.guesses:
        yield "guess", guess


def _memory(memory: PlannedMemory) -> Iterator[tuple[str, str]]:
    of = f" of {size(memory.room)} of {memory.room_name}" if memory.room is not None else ""
    name = " ".join(f"{key}={value}" for key, value in memory.point.items())
    yield "memory", f"{size(memory.predicted)}{of}{f', in the largest run ({name})' if name else ''}"
    parts = [f"{part} {size(held)}" for part, held in memory.parts.items() if held]
    yield "", f"{', '.join(parts)}; then the gate {size(memory.gate)}" if memory.gate else ", ".join(parts)


def _time(time: PlannedTime) -> str:
    if time.ends is None:
        return "nothing is left to train"
    most = "at most " if time.at_most else ""
    return f"{most}{duration(time.seconds)}, until {clock(time.ends)}; by {time.source}"


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
