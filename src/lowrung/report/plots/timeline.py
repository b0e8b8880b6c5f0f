"""What ran when, on which worker."""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from lowrung.report.plots import Plot, palette, style, units
from lowrung.report.plots.scores import Scores, sentences
from lowrung.report.record import RunRecord, StudyRecord, TrialRecord
from lowrung.report.tables import counted

_INTERRUPTED = "interrupted"
"""Of a part of a run that another process went on with."""


@dataclasses.dataclass(frozen=True)
class _Bar:
    """A run that has ended, or a part of one before it was interrupted.

    Attributes:
        status: how the run ended, or `_INTERRUPTED`.
        begin: in seconds since 1970, and as it is drawn since the first one began, without pauses.
        end: likewise.
        lane: its row, that of its worker; None where it is not known yet.
    """

    trial: TrialRecord
    run: RunRecord
    status: str
    begin: float
    end: float
    lane: int | None


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot; nothing where no run of this study says when it ran."""
    scores = Scores(study)
    known = [
        each
        for trial in study.trials
        for run in trial.runs
        if _is_timed(run) and not trial.is_reused
        for each in _stretches(trial, run)
    ]
    timed = [each for each in known if each.lane is not None] or known
    if len(timed) < 2:
        return []
    pauses = _pauses([(each.begin, each.end) for each in timed])
    has_slots = all(each.lane is not None for each in timed)
    bars = _bars(timed, pauses)
    unit = units.times("since the first run began", [bar.end for bar in bars])
    lanes = sorted({bar.lane or 0 for bar in bars})
    made = style.figure(
        [_trace(scores, [bar for bar in bars if bar.status == status], status, unit) for status in _statuses(bars)],
        height=110 + 30 * len(lanes),
        barmode="overlay",
        bargap=0.15,
        xaxis=style.axis(unit.label, nticks=6, range=[0, max(bar.end for bar in bars) / unit.factor * 1.01]),
        yaxis=style.axis(
            "worker" if has_slots else "",
            tickmode="array",
            tickvals=lanes if has_slots and len(lanes) <= 32 else [],
            autorange="reversed",
            showgrid=False,
        ),
        annotations=[style.key(_meanings(bars))],
    )
    for begin, _ in pauses:
        x = (begin - min(each.begin for each in timed) - _idle_before(pauses, begin)) / unit.factor
        made.add_vline(x=x, line={"color": style.LINE, "width": 1, "dash": "dash"})
    return [Plot("timeline", "What ran when", _about(study, bars, pauses, has_slots), made)]


def _about(study: StudyRecord, bars: Sequence[_Bar], pauses: Sequence[tuple[float, float]], has_slots: bool) -> str:
    length = max(bar.end for bar in bars)
    lanes = len({bar.lane for bar in bars})
    busy = min(1.0, sum(bar.end - bar.begin for bar in bars) / (length * lanes)) if length else 1.0
    ended = [(trial, run) for trial in study.trials for run in trial.runs if run.status is not None]
    reused = sum(trial.is_reused or (has_slots and run.slot is None and _is_timed(run)) for trial, run in ended)
    drawn = sum(bar.status != _INTERRUPTED for bar in bars)
    unknown = len(ended) - reused - drawn
    idle = units.times("", [sum(end - begin for begin, end in pauses)])
    return sentences(
        f"Each bar is a run; {'workers' if has_slots else 'the rows'} were busy {busy:.0%} of the time. White between"
        " bars is time that nothing was trained in: set-up, scoring between stages, or waiting for the slowest run.",
        "" if has_slots else "Which worker had which run is not known: runs at the same time are in different rows.",
        f"A dashed line is a pause, {sum(e - b for b, e in pauses) / idle.factor:.3g} {idle.label.strip(' ()')} in all."
        if pauses
        else "",
        f"{counted(reused, 'run')} came from the store and took no time here." if reused else "",
        f"{counted(unknown, 'run')} of unknown time are left out." if unknown else "",
    )


def _is_timed(run: RunRecord) -> bool:
    return (
        run.status is not None
        and run.started is not None
        and run.ended is not None
        and math.isfinite(run.ended - run.started)
        and run.ended >= run.started
    )


def _pauses(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Times in which nothing ran for longer than ten usual runs: a study that went on another day."""
    least = max(10 * statistics.median(end - begin for begin, end in spans), 600.0)
    found, last = [], -math.inf
    for begin, end in sorted(spans):
        if last > -math.inf and begin - last > least:
            found.append((last, begin))
        last = max(last, end)
    return found


def _idle_before(pauses: Sequence[tuple[float, float]], time: float) -> float:
    return sum(end - begin for begin, end in pauses if end <= time)


def _stretches(trial: TrialRecord, run: RunRecord) -> Iterator[_Bar]:
    """A run that has ended, after what was done of it before it was interrupted."""
    for each in run.earlier:
        yield _Bar(trial, run, _INTERRUPTED, each.started, each.ended, each.slot)
    yield _Bar(trial, run, str(run.status), run.started or 0.0, run.ended or 0.0, run.slot)


def _bars(timed: Sequence[_Bar], pauses: Sequence[tuple[float, float]]) -> list[_Bar]:
    """The bars, by worker; where that is not known, each is in the first row that is free."""
    first = min(each.begin for each in timed)
    free: list[float] = []
    found = []
    for each in sorted(timed, key=lambda each: each.begin):
        lane = _lane(free, each.begin, each.end) if each.lane is None else each.lane
        shift = first + _idle_before(pauses, each.begin)
        found.append(dataclasses.replace(each, begin=each.begin - shift, end=each.end - shift, lane=lane))
    return found


def _lane(free: list[float], begin: float, end: float) -> int:
    lane = next((place for place, until in enumerate(free) if until <= begin), len(free))
    free[lane : lane + 1] = [end]
    return lane


def _statuses(bars: Sequence[_Bar]) -> list[str]:
    return list(dict.fromkeys(bar.status for bar in bars))


def _meanings(bars: Sequence[_Bar]) -> list[tuple[str, str]]:
    """What each colour means."""
    by_colour: dict[str, list[str]] = {}
    for status in _statuses(bars):
        by_colour.setdefault(_colour(status), []).append(status)
    return [(", ".join(statuses), colour) for colour, statuses in by_colour.items()]


def _trace(scores: Scores, bars: Sequence[_Bar], status: str, unit: units.Unit) -> go.Bar:
    return go.Bar(
        x=[float(f"{(bar.end - bar.begin) / unit.factor:.4g}") for bar in bars],
        base=[float(f"{bar.begin / unit.factor:.6g}") for bar in bars],
        y=[bar.lane for bar in bars],
        orientation="h",
        marker={
            "color": _colour(status),
            "line": {"color": "rgba(255,255,255,0.6)", "width": 1 if len(bars) < 300 else 0},
        },
        customdata=[
            scores.name(bar.trial) + (f", seed {bar.run.seed}" if len(bar.trial.runs) > 1 else "") for bar in bars
        ],
        hovertemplate=f"%{{customdata}}<br>{status}, %{{x}} {unit.label.split('(')[-1].rstrip(')')}<extra></extra>",
    )


def _colour(status: str) -> str:
    return palette.BLUE if status == "complete" else palette.COLOURS.get(status, palette.GREY)
