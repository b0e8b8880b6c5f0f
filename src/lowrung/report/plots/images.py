"""The main plots as images, by matplotlib: it needs no browser."""

import html
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lowrung.report.plots import cells, intervals, palette, runs, scales, units
from lowrung.report.plots.cells import Cells, Side
from lowrung.report.plots.intervals import Intervals, Row
from lowrung.report.plots.runs import Curve, Curves
from lowrung.report.plots.scales import Scale
from lowrung.report.plots.scores import Scores
from lowrung.report.record import StudyRecord

_DPI = 130
_MARKERS = {"best": "*", "tie": "o", "worse": "D", "better": "s"}
"""As in the figures: beside the colours, for whoever sees none."""
_LINES = ("-", "--", "-.", ":")
"""Of stages."""
_SLICES = 4
"""Axes in one image."""


NAMES = ("differences", "heat-map", "slices", "learning-curves")
"""Of all images that there may be."""


def write(study: StudyRecord, folder: Path) -> list[Path]:
    """Writes them; see `lowrung.report.plots.png`."""
    with matplotlib.rc_context({"text.parse_math": False}):  # a value such as $x$ is no formula
        made = _figures(study)
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:  # one that cannot be drawn any more would be of other trials
            (folder / f"{name}.png").unlink(missing_ok=True)
        return [_save(figure, folder / f"{name}.png") for name, figure in made.items()]


def _figures(study: StudyRecord) -> dict[str, Figure]:
    drawn = {"differences": intervals.of(study), "heat-map": cells.of(study), "learning-curves": runs.of(study)}
    made: dict[str, Figure] = {}
    for name, found in drawn.items():
        match found:
            case Intervals():
                made[name] = _intervals(found)
            case Cells():
                made[name] = _cells(found)
            case Curves():
                made[name] = _curves(found)
            case _ if name == "heat-map":
                made |= _slices(study)
    return made


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=_DPI, facecolor="white", metadata={"Software": None})
    return path


def _figure(title: str, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _intervals(found: Intervals) -> Figure:
    figure, axes = _figure(f"{found.scores.study.name}: {found.title}", 1.2 + 0.36 * len(found.rows))
    low, high = found.ends
    for place, row in enumerate(found.rows):
        colour = palette.COLOURS.get(row.verdict, palette.GREY)
        if found.is_off(row):
            _arrow(axes, place, row, high if row.mean > high else low, colour)
            continue
        spread = [[row.mean - row.low], [row.high - row.mean]]
        marker, size = _MARKERS.get(row.verdict, "o"), 11 if row.verdict == "best" else 6
        axes.errorbar(
            [row.mean], [place], xerr=spread, fmt=marker, markersize=size, color=colour, capsize=3, linewidth=1.8
        )
    axes.set_yticks(
        range(len(found.rows)), [f"{html.unescape(row.name)}\n{row.words}" for row in found.rows], fontsize=8
    )
    axes.set_ylim(len(found.rows) - 0.4, -0.6)
    axes.set_xlim(low, high)
    axes.set_xlabel(found.label)
    if found.is_paired:
        axes.axvline(0, color="0.5", linewidth=1)
    return figure


def _arrow(axes: Axes, place: int, row: Row, end: float, colour: str) -> None:
    """Of a value that lies beyond the end of what is shown."""
    is_high = row.mean > end
    axes.plot([end], [place], marker=">" if is_high else "<", color=colour, markersize=8, clip_on=False)
    shift, side = (-10, "right") if is_high else (10, "left")
    axes.annotate(
        f"{row.mean:+.3g}", (end, place), (shift, 0), textcoords="offset points", ha=side, va="center", fontsize=8
    )


def _cells(found: Cells) -> Figure:
    edges = cells.at_edges(found.scores, [found.across.key, found.up.key])
    title = "\n".join([f"{found.scores.study.name}: {found.scores.metric} by {found.title}", *edges])
    figure, axes = _figure(title, 2.2 + 0.42 * found.up.count)
    axes.grid(visible=False)
    rows = [[found.values.get((x, y), float("nan")) for x in range(found.across.count)] for y in range(found.up.count)]
    low, high = found.ends
    colours = "cividis" if found.scores.is_maximised else "cividis_r"
    image = axes.imshow(rows, origin="lower", aspect="auto", cmap=colours, vmin=low, vmax=high)
    figure.colorbar(
        image, ax=axes, label=units.of(found.scores.metric).label, extend="both" if found.is_clipped else "neither"
    )
    for (x, y), value in found.values.items():
        is_dark = (value - low) / (high - low) > 0.5
        colour = "white" if is_dark != found.scores.is_maximised else "black"
        axes.text(x, y, f"{value:#.4g}".rstrip("."), ha="center", va="center", fontsize=8, color=colour)
    for (x, y), words in found.empty.items():
        axes.text(x, y, words.replace(" ", "\n"), ha="center", va="center", fontsize=7, color="0.4")
    across, up = found.best
    axes.plot(
        [across],
        [up - cells.BELOW * (not found.up.is_binned)],
        marker="*",
        color=palette.RED,
        markersize=13,
        markeredgecolor="white",
    )
    _label(axes, found.across, found.up)
    return figure


def _label(axes: Axes, across: Side, up: Side) -> None:
    axes.set_xticks([place for place, _ in across.ticks], [html.unescape(text) for _, text in across.ticks])
    axes.set_yticks([place for place, _ in up.ticks], [html.unescape(text) for _, text in up.ticks])
    axes.set_xlim(-0.5, across.count - 0.5)
    axes.set_ylim(-0.5, up.count - 0.5)
    axes.set_xlabel(across.key)
    axes.set_ylabel(up.key)


def _slices(study: StudyRecord) -> dict[str, Figure]:
    scores, shown = Scores(study), scales.varied(study)[:_SLICES]
    if not shown or len(scores.drawn) < 2:
        return {}
    figure = Figure(figsize=(8, 2.6 * len(shown)), layout="constrained")
    parts = figure.subplots(len(shown), squeeze=False)[:, 0]
    parts[0].set_title(f"{study.name}: {scores.metric} over each axis", loc="left", fontsize=11)
    for axes, scale in zip(parts, shown, strict=True):
        _slice(axes, scores, scale)
    return {"slices": figure}


def _slice(axes: Axes, scores: Scores, scale: Scale) -> None:
    _plain(axes)
    for trial in reversed(scores.drawn):
        x, standing = scale.at(trial), scores.standing(trial)
        if x is None:
            continue
        marker, size = ("*", 13) if standing == "best" else ("o", 6)
        value = scores.value(trial)
        if scores.is_beyond(trial):
            marker, size, value = "v" if scores.is_maximised else "^", 7, scores.far
        axes.plot([x], [value], marker=marker, markersize=size, color=palette.COLOURS[standing], clip_on=False)
    if scale.is_log:
        axes.set_xscale("log")
    axes.set_xticks([at for at, _ in scale.ticks()], [html.unescape(text) for _, text in scale.ticks()])
    axes.minorticks_off()
    axes.set_ylim(*scores.limits)
    axes.set_xlabel(scale.axis.key)
    axes.set_ylabel(units.of(scores.metric).label, fontsize=8)


def _curves(found: Curves) -> Figure:
    across, metric = found.across[0], found.metrics[0]
    unit = found.unit(across)
    figure, axes = _figure(f"{found.scores.study.name}: learning curves", 4.2)
    colours = runs.colours(found)
    for curve in found.curves:
        if curve.metric == metric:
            _curve(axes, curve, colours[curve.name], [value / unit.factor for value in curve.across[across]])
    axes.set_ylim(*found.ends(metric))
    axes.set_xlabel(unit.label)
    axes.set_ylabel(units.of(metric).label)
    for words, colour in runs.legend(found, colours):
        axes.plot([], [], color=colour, label=html.unescape(words))
    for words, line in found.scores.by_stage(_LINES):
        axes.plot([], [], color="0.3", linestyle=line, label=html.unescape(words))
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    return figure


def _curve(axes: Axes, curve: Curve, colour: str, x: list[float]) -> None:
    width = 2.4 if curve.standing == "best" else 1.3
    line = palette.of_stage(_LINES, curve.stage)
    axes.plot(x, curve.values, color=colour, linewidth=width, linestyle=line, marker="o", markersize=2)
    if curve.is_cut:
        axes.plot(x[-1:], curve.values[-1:], color=colour, marker="x", markersize=7, markeredgewidth=2)
