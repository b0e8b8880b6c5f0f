import dataclasses
import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lowrung.report import plots
from lowrung.report.page import tables
from lowrung.report.record import Axis, Difference, Stretch, StudyRecord
from lowrung.store.outcome import Status
from tests.report import studies
from tests.report.studies import history, study, trial

SHARES = {"train.learning_rate": 0.7, "lora": 0.2, "lora.r": 0.08, "lora.dropout": 0.02}


def by_name(record):
    return {plot.name: plot for plot in plots.figures(record)}


def numbers(figure):
    """All numbers that are drawn."""
    found = json.loads(figure.to_json())["data"]
    return [value for trace in found for key in ("x", "y") for value in _flat(trace.get(key, []))]


def _flat(values):
    assert not isinstance(values, dict), "typed arrays cannot be read in a page's source"
    return [value for value in values if isinstance(value, float | int)]


def texts(figure):
    return " ".join(str(one.text) for one in figure.layout.annotations)


@pytest.fixture(scope="module")
def searched():
    return by_name(studies.searched(60, importance=SHARES))


@pytest.fixture(scope="module")
def grid():
    return by_name(studies.grid(preferred=13))


def test_all_plots_in_the_order_of_importance_with_names_titles_and_a_sentence(searched):
    found = list(searched.values())
    assert [plot.name for plot in found] == [
        "differences",
        "heat-map",
        "learning-curves",
        "importance",
        "slices",
        "parallel-coordinates",
        "trade-offs",
        "best-so-far",
        "timeline",
    ]
    for plot in found:
        assert plot.title
        assert plot.about.endswith(".")
        assert plot.figure.layout.width is None
        assert plot.figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert "23 pruned" in searched["slices"].about


def test_importing_the_report_loads_neither_plotly_nor_matplotlib():
    code = (
        "import sys, lowrung.report.plots, lowrung.report.leaderboard;"
        " print([name for name in ('plotly', 'matplotlib', 'optuna') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_differences_name_the_best_the_ties_and_the_one_to_take():
    record = study(
        [trial(0, {"lora.r": "4"}, 2.802), trial(1, {"lora.r": "8"}, 2.8), trial(2, {"lora.r": "16"}, 4.8)],
        [studies.RANK],
        preferred=0,
    )
    plot = by_name(record)["differences"]
    said = texts(plot.figure)
    assert "#1  r=8" in said
    assert "tie, the one to take" in said
    assert "worse" in said
    ends = plot.figure.layout.xaxis.range
    assert ends[1] < 2.0
    assert "1 of them lies outside" in plot.about
    far = [trace for trace in plot.figure.data if trace.marker.symbol == "triangle-right"]
    assert len(far) == 1
    assert ends[0] < far[0].x[0] < ends[1]
    assert "+2" in far[0].hovertemplate
    trials = [trial(0, {"lora.r": "4"}, 2.8), trial(1, {"lora.r": "8"}, 4.8)]
    two = by_name(study(trials, [studies.RANK]))["differences"]
    assert two.figure.layout.xaxis.range[1] > 2.0
    assert "outside" not in two.about


def test_trials_that_were_not_compared_are_drawn_by_their_values():
    record = studies.grid(ranks=("4", "8"))
    bare = dataclasses.replace(
        record, trials=[dataclasses.replace(one, difference=None, against="") for one in record.trials]
    )
    plot = by_name(bare)["differences"]
    assert plot.title == "Trials by eval/loss"
    assert "no intervals" in plot.about
    assert "best" in texts(plot.figure)


def test_the_heat_map_says_that_the_best_lies_at_an_edge(grid):
    plot = grid["heat-map"]
    assert plot.about.startswith("At the edge: Lora.r=32") or "lora.r=32 is the largest that was tried" in plot.about
    assert "train.learning_rate=" not in plot.about


def test_the_heat_map_does_not_say_so_where_a_tie_lies_inside():
    record = study(
        [
            trial(place, {"lora.r": rank, "train.learning_rate": rate}, loss)
            for place, (rank, rate, loss) in enumerate(
                [("4", "1e-4", 3.0), ("8", "3e-4", 2.8005), ("16", "1e-3", 2.8), ("8", "1e-3", 2.9)]
            )
        ],
        [studies.RANK, Axis("train.learning_rate", values=("1e-4", "3e-4", "1e-3"), is_log=True)],
    )
    assert "At the edge" not in by_name(record)["heat-map"].about


def test_cells_of_pruned_trials_have_no_value(searched):
    figure = searched["heat-map"].figure
    cells = [value for row in figure.data[0].z for value in row]
    assert any(value is None for value in cells)
    assert "pruned" in list(figure.data[1].text)
    ground = figure.data[-1].z  # else marks of such cells stand in the white
    assert sum(value == 1 for row in ground for value in row) == len(figure.data[1].text)


def test_ends_of_several_kinds_in_a_cell_stand_below_each_other():
    """Side by side they would reach into the next cells on a phone."""
    points = [{"lora.r": r, "train.learning_rate": rate} for r in ("4", "8") for rate in ("1e-4", "3e-4")]
    ends = [Status.COMPLETE, Status.COMPLETE, Status.COMPLETE, Status.PRUNED, Status.DIVERGED]
    trials = [trial(n, [*points, points[3]][n], 3.0 - n / 10, status=end) for n, end in enumerate(ends)]
    axes = [studies.RANK, Axis("train.learning_rate", values=("1e-4", "3e-4"), is_log=True)]
    assert list(by_name(study(trials, axes))["heat-map"].figure.data[1].text) == ["diverged<br>pruned"]


def test_all_of_a_few_trials_are_shown_and_what_is_far_away_is_an_arrow_at_the_border():
    """Of five, two would be beyond an end at four times the median's distance."""
    rates = ("0.1", "0.3", "1", "3", "10")
    axes = [Axis("rate", values=rates, is_log=True)]
    losses = [2.668, 2.668, 2.707, 2.836, 2.899]
    found = by_name(study([trial(n, {"rate": rate}, losses[n]) for n, rate in enumerate(rates)], axes))
    for name in ("slices", "best-so-far"):
        low, high = found[name].figure.layout.yaxis.range
        assert low < 2.668
        assert high > 2.899
        assert "beyond" not in found[name].about
    for sign, arrow in ((1, "triangle-up"), (-1, "triangle-down")):
        trials = [
            trial(n, {"rate": rate}, sign * value)
            for n, (rate, value) in enumerate(zip(rates, (1, 2, 3, 4, 99), strict=True))
        ]
        far = study(trials, axes, objectives={"eval/loss": "minimize" if sign > 0 else "maximize"})
        slices = by_name(far)["slices"]
        assert "1 trial far from the best lies beyond what is shown. Arrows at the border say where." in slices.about
        (there,) = [trace for trace in slices.figure.data if trace.marker.symbol == arrow]
        low, high = slices.figure.layout.yaxis.range
        assert list(there.x) == [10.0]
        assert low < there.y[0] < high
        assert "1 trial far from the best" in by_name(far)["best-so-far"].about


def test_a_name_begins_with_what_matters_most(searched):
    names = texts(searched["differences"].figure)
    assert re.search(r"#\d+  learning_rate=\S+ lora=\w+", names)


def test_one_of_two_worse_trials_is_not_far_away():
    points = [{"lora.r": r} for r in ("16", "64", "4")]
    record = study(
        [trial(n, point, loss) for n, (point, loss) in enumerate(zip(points, (2.7, 2.74, 2.87), strict=True))],
        [studies.RANK],
    )
    assert "arrow" not in by_name(record)["differences"].about


def test_the_one_to_take_leaves_room_for_its_words():
    axes = [studies.RANK, *(Axis(f"train.a_long_name_{i}", values=("1", "2")) for i in range(4))]
    points = [{"lora.r": r, **{axis.key: "1" for axis in axes[1:]}} for r in studies.RANK.values]
    record = study([trial(n, point, 3 + n / 10) for n, point in enumerate(points)], axes, preferred=0)
    first, second = (one.text for one in by_name(record)["differences"].figure.layout.annotations[:2])
    drawn = [len(re.sub(r"<[^>]+>", "", text)) for text in (first, second)]
    assert drawn[0] <= drawn[1] + 5
    short = by_name(studies.grid(preferred=13))["differences"].figure.layout.annotations
    assert any("#13  r=32 learning_rate=0.0003   " in one.text and "the one to take" in one.text for one in short)


def test_a_long_list_of_numbers_has_round_ticks():
    values = [f"{1.07**n:.4f}" for n in range(40)]
    record = study(
        [trial(n, {"rate": text}, 3 - n / 100) for n, text in enumerate(values)], [Axis("rate", values, is_log=True)]
    )
    assert list(by_name(record)["slices"].figure.layout.xaxis.ticktext) == ["1", "2", "5", "10"]


def test_one_axis_has_no_heat_map_and_no_parallel_coordinates_but_a_slice():
    record = study([trial(n, {"lora.r": r}, 3 - n / 10) for n, r in enumerate(studies.RANK.values)], [studies.RANK])
    found = by_name(record)
    assert not {"heat-map", "parallel-coordinates", "importance"} & set(found)
    axis = found["slices"].figure.layout.xaxis
    assert axis.type == "log"
    assert list(axis.ticktext) == ["4", "8", "16", "32"]
    assert axis.range is None or axis.range[0] < math.log10(4)


def test_words_have_places_and_null_is_one_of_them():
    axis = Axis("lora.target_modules", values=("null", "all-linear", "8"))
    record = study([trial(n, {axis.key: text}, 3 - n / 10) for n, text in enumerate(axis.values)], [axis])
    assert list(by_name(record)["slices"].figure.layout.xaxis.ticktext) == ["null", "all-linear", "8"]


def test_a_value_in_another_spelling_and_one_beside_the_list():
    axis = Axis("train.learning_rate", values=("1e-4", "3e-4"), is_log=True)
    tried = ["0.0001", "3e-4", "0.002"]
    record = study([trial(n, {axis.key: text}, 3 - n / 10) for n, text in enumerate(tried)], [axis])
    assert list(by_name(record)["slices"].figure.layout.xaxis.tickvals) == [1e-4, 3e-4, 2e-3]


def test_curves_switch_between_tokens_and_time_and_between_losses(grid):
    plot = grid["learning-curves"]
    labels = [button.label for menu in plot.figure.layout.updatemenus for button in menu.buttons]
    assert labels == ["eval loss", "train loss", "both", "tokens", "time"]
    over_time = next(b for menu in plot.figure.layout.updatemenus for b in menu.buttons if b.label == "time")
    assert len(over_time.args[0]["x"]) == len(plot.figure.data)
    visible = [trace for trace in plot.figure.data if trace.visible]
    assert len(visible) == 16


def test_a_pruned_curve_ends_with_a_cross(searched):
    plot = searched["learning-curves"]
    crossed = [trace for trace in plot.figure.data if "x" in (trace.marker.symbol or ())]
    assert crossed
    assert all(trace.marker.symbol[-1] == "x" for trace in crossed)
    assert "36 of 60 runs are drawn" in plot.about


def test_curves_without_tokens_go_over_time_and_long_ones_are_thinned():
    one = trial(0, {"lora.r": "4"}, 2.8)
    runs = [dataclasses.replace(one.runs[0], history=history(2.8, steps=1000, tokens=None))]
    record = study([dataclasses.replace(one, runs=runs), trial(1, {"lora.r": "8"}, 2.9, seeds=(0, 1))], [studies.RANK])
    plot = by_name(record)["learning-curves"]
    assert max(len(trace.x) for trace in plot.figure.data) <= 60
    assert max(plot.figure.data[-1].x) == pytest.approx(7000 / 60, rel=1e-3)
    assert "1 curve every few points" in plot.about
    assert any("seed 1" in trace.hovertemplate for trace in plot.figure.data)


def test_a_run_that_diverges_does_not_press_the_others_flat():
    broken = trial(1, {"lora.r": "8"}, math.nan, status=Status.DIVERGED)
    points = [*history(3.5, steps=4), dataclasses.replace(history(3.5)[4], metrics={"eval/loss": 1e9})]
    points.append(dataclasses.replace(points[0], step=9, metrics={"eval/loss": math.nan, "train/loss": math.inf}))
    runs = [dataclasses.replace(broken.runs[0], history=points)]
    record = study([trial(0, {"lora.r": "4"}, 2.8), dataclasses.replace(broken, runs=runs)], [studies.RANK])
    plot = by_name(record)["learning-curves"]
    assert plot.figure.layout.yaxis.range[1] < 6
    assert "2 values that are not finite" in plot.about
    assert all(math.isfinite(value) for value in numbers(plot.figure))


def test_several_objectives_are_drawn_against_each_other():
    trials = [
        dataclasses.replace(one, metrics={**one.metrics, "forget/loss_delta": 0.3 - n / 100})
        for n, one in enumerate(trial(n, {"lora.r": r}, 2.8 + n / 10) for n, r in enumerate(studies.RANK.values))
    ]
    record = study(trials, [studies.RANK], objectives={"eval/loss": "minimize", "forget/loss_delta": "minimize"})
    figure = by_name(record)["trade-offs"].figure
    assert figure.layout.xaxis.title.text == "forgetting (nats per token)"
    assert len(figure.data[1].x) == 4


def test_what_is_maximised_has_its_best_at_the_top():
    trials = [
        dataclasses.replace(one, metrics={"eval/exact_match": n / 10}, difference=None, against="")
        for n, one in enumerate(trial(n, {"lora.r": r}) for n, r in enumerate(studies.RANK.values))
    ]
    record = dataclasses.replace(
        study(trials, [studies.RANK]), objectives={"eval/exact_match": "maximize"}, trials=trials[::-1]
    )
    found = by_name(record)
    assert max(found["best-so-far"].figure.data[1].y) == 0.3
    assert "peak" in found["slices"].about


def test_trials_of_stages_and_broken_constraints_are_counted():
    record = studies.grid()
    trials = [
        dataclasses.replace(one, broken=["memory/peak_bytes<=2e9"] if one.number < 2 else (), stage="rate")
        for one in record.trials
    ]
    found = by_name(dataclasses.replace(record, trials=trials))
    assert "Left out: 2 breaking a constraint." in found["slices"].about
    assert "2 that break a constraint" in found["heat-map"].about


@pytest.mark.slow
def test_each_of_the_main_plots_says_of_which_stage_a_trial_is(tmp_path):
    record = studies.grid()
    stages = ["rate", "rank", "rate, <b>long name of a stage"]
    trials = [
        dataclasses.replace(one, stage=stages[one.number % 3], stage_index=one.number % 3) for one in record.trials
    ]
    record = dataclasses.replace(record, trials=trials)
    found = by_name(record)

    def says(text):
        stage = ("(rate)", "(rank)", "(rate, &lt;b&gt;long name …)")[int(text[1:].split()[0]) % 3]
        return stage in text

    curves = found["learning-curves"].figure
    for figure in (found["differences"].figure, curves):
        hovers = [trace.hovertemplate for trace in figure.data]
        assert hovers
        assert all(map(says, hovers))
    assert {trace.line.dash for trace in curves.data} == {"solid", "dash", "dashdot", "dot"}
    assert "── rate" in curves.layout.annotations[0].text
    marks = found["heat-map"].figure.data[2]
    assert Counter(marks.marker.symbol) == {"circle": 6, "square": 5, "diamond": 5}
    assert all(map(says, marks.customdata))
    assert "● rate, ■ rank, ◆ rate, <b>long name …" in found["heat-map"].about
    assert len(plots.png(record, tmp_path)) == 3


def test_runs_on_another_day_leave_no_white_between():
    trials = [trial(n, {"lora.r": r}, 3 - n / 10) for n, r in enumerate(studies.RANK.values)]
    later = [dataclasses.replace(run, started=run.started + 9e5, ended=run.ended + 9e5) for run in trials[3].runs]
    record = study([*trials[:3], dataclasses.replace(trials[3], runs=later)], [studies.RANK])
    plot = by_name(record)["timeline"]
    assert plot.figure.layout.xaxis.range[1] < 10
    assert "A dashed line is a pause, 250 hours in all." in plot.about


def test_what_was_done_before_an_interruption_is_drawn_too():
    trials = [trial(n, {"lora.r": r}, 3 - n / 10) for n, r in enumerate(studies.RANK.values)]
    begun = trials[0].runs[0].started
    earlier = [Stretch(begun - 300, begun - 200, 0)]
    first = dataclasses.replace(trials[0], runs=[dataclasses.replace(trials[0].runs[0], earlier=earlier)])
    record = study([first, *trials[1:]], [studies.RANK])
    plot = by_name(record)["timeline"]
    drawn = {trace.hovertemplate.split("<br>")[1].split(",")[0]: trace for trace in plot.figure.data}
    assert list(drawn["interrupted"].base) == [0]
    assert min(drawn["complete"].base) == 5  # minutes
    assert "interrupted" in plot.figure.layout.annotations[0].text
    assert "unknown" not in plot.about
    [row] = [cells for cells in tables.of(record)["done"].cells if cells[0] == "from the first start to the last end"]
    without = tables.of(study(trials, [studies.RANK]))["done"].cells
    assert row not in without


def test_statuses_of_one_colour_stand_at_one_point():
    statuses = (Status.COMPLETE, Status.FAILED, Status.OOM, Status.DIVERGED)
    trials = [trial(n, {"lora.r": str(4 + n)}, 3 - n / 10, status=status) for n, status in enumerate(statuses)]
    text = by_name(study(trials, [studies.RANK]))["timeline"].figure.layout.annotations[0].text
    assert text.count("●") == 2
    assert "failed, diverged, oom" in text


def test_runs_of_unknown_slots_and_from_the_store():
    trials = [trial(n, {"lora.r": r}, 3 - n / 10) for n, r in enumerate(studies.RANK.values)]
    trials = [
        dataclasses.replace(one, runs=[dataclasses.replace(run, slot=None) for run in one.runs]) for one in trials
    ]
    record = study([*trials[:3], dataclasses.replace(trials[3], is_reused=True)], [studies.RANK])
    about = by_name(record)["timeline"].about
    assert "Which worker had which run is not known" in about
    assert "1 run came from the store" in about


def test_a_run_of_the_store_beside_others_is_in_nobodys_row():
    trials = [trial(n, {"lora.r": r}, 3 - n / 10, seeds=(0, 1)) for n, r in enumerate(studies.RANK.values)]
    first = [dataclasses.replace(trials[0].runs[0], slot=None, started=1e8, ended=1e8 + 50), trials[0].runs[1]]
    plot = by_name(study([dataclasses.replace(trials[0], runs=first), *trials[1:]], [studies.RANK]))["timeline"]
    assert "1 run came from the store" in plot.about
    assert "pause" not in plot.about
    assert sum(len(trace.x) for trace in plot.figure.data) == 7


def test_trials_that_could_not_be_compared_beside_others_are_counted():
    record = studies.grid(ranks=("4", "8"))
    odd = {2: None, 3: Difference(0.1, -math.inf, math.inf, "unknown")}
    trials = [
        dataclasses.replace(one, difference=odd[one.number]) if one.number in odd else one for one in record.trials
    ]
    plot = by_name(dataclasses.replace(record, trials=trials))["differences"]
    assert len(plot.figure.data) == 6
    assert "2 trials could not be compared with the best and are not drawn." in plot.about


EMPTY = StudyRecord("none", Path("multirun/none"), {"eval/loss": "minimize"}, [], [], "empty")


@pytest.mark.parametrize(
    ("record", "names"),
    [
        (EMPTY, []),
        (study([], [studies.RANK, studies.RATE]), []),
        (study([trial(0, {})], []), ["learning-curves"]),
        (study([trial(0, {}), trial(1, {}, 2.9)], []), ["differences", "learning-curves"]),
        (
            study([trial(n, {"lora.r": r}, math.nan) for n, r in enumerate("48")], [studies.RANK]),
            ["learning-curves", "timeline"],
        ),
        (
            study([trial(n, {"lora.r": r}, status=Status.FAILED) for n, r in enumerate("48")], [studies.RANK]),
            ["learning-curves", "timeline"],
        ),
        (
            study([trial(n, {"lora.r": r}, status=None) for n, r in enumerate("48")], [studies.RANK]),
            ["learning-curves"],
        ),
        (dataclasses.replace(EMPTY, objectives={}, axes=[Axis("lora.r")]), []),
    ],
    ids=["empty", "no trials", "one trial", "no axis", "NaN everywhere", "all failed", "running", "no objective"],
)
def test_of_little_what_can_be_drawn_is_and_the_rest_is_said(record, names):
    drawn = plots.draw(record)
    found = [plot.name for plot in drawn.plots]
    assert [name for name in names if name not in found] == []
    assert not {"slices", "importance", "heat-map", "parallel-coordinates"} & set(found)
    assert bool(drawn.missing) == ("differences" not in found)
    for plot in drawn.plots:
        assert all(math.isfinite(value) for value in numbers(plot.figure))


@pytest.mark.slow
def test_two_thousand_trials_are_under_two_megabytes():
    record = studies.searched(2000, importance=SHARES)
    found = plots.figures(record)
    assert sum(len(plot.figure.to_json()) for plot in found) < 2e6
    about = {plot.name: plot.about for plot in found}
    assert "30 of " in about["differences"]
    assert "36 of 2000 runs are drawn" in about["learning-curves"]
    assert "240 of " in about["parallel-coordinates"]


@pytest.mark.slow
def test_images_of_the_main_plots(tmp_path):
    found = plots.png(studies.grid(), tmp_path / "plots")
    assert [path.name for path in found] == ["differences.png", "heat-map.png", "learning-curves.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in found)


@pytest.mark.slow
def test_images_of_one_axis_and_of_nothing(tmp_path):
    record = study([trial(n, {"lora.r": r}, 3 - n / 10) for n, r in enumerate(studies.RANK.values)], [studies.RANK])
    assert [path.name for path in plots.png(record, tmp_path)] == [
        "differences.png",
        "slices.png",
        "learning-curves.png",
    ]
    assert plots.png(EMPTY, tmp_path / "none") == []


ODD = ("<think>", "</script><script>alert(1)</script>", "$x^", "$y_$", "%{x}&amp;")


def of_odd_words():
    axis = Axis("generation.stop", values=ODD)
    return study([trial(n, {axis.key: text}, 3 - n / 10) for n, text in enumerate(ODD)], [axis])


def test_odd_words_are_shown_as_they_are():
    found = by_name(of_odd_words())
    assert "stop=&lt;think&gt;" in texts(found["differences"].figure)
    assert found["slices"].figure.layout.xaxis.ticktext[0] == "&lt;think&gt;"
    assert not [plot for plot in found.values() if "</script>" in plot.figure.to_json()]


@pytest.mark.slow
def test_odd_words_are_no_formulas_in_images(tmp_path):
    assert len(plots.png(of_odd_words(), tmp_path)) == 3


def test_where_the_best_alone_is_at_an_end_its_ties_are_named():
    record = study(
        [
            trial(0, {"lora.r": "4", "train.learning_rate": "1e-4"}, 3.0),
            trial(1, {"lora.r": "8", "train.learning_rate": "1e-4"}, 2.801),
            trial(2, {"lora.r": "16", "train.learning_rate": "3e-4"}, 2.8),
        ],
        [studies.RANK, Axis("train.learning_rate", values=("1e-4", "3e-4"), is_log=True)],
    )
    about = by_name(record)["heat-map"].about
    assert "At the edge" not in about
    assert "Of the best, " in about
    assert "lora.r=16 is the largest that was tried" in about


def test_the_time_of_a_run_that_was_interrupted_is_said_to_be_that_of_all_its_parts():
    whole, part = (trial(number, {"lora.r": str(4 + number)}, 2.8 + number / 10) for number in range(2))
    earlier = [Stretch(0.0, 50.0)]
    part = dataclasses.replace(part, runs=[dataclasses.replace(run, earlier=earlier) for run in part.runs])
    said = "1 trial with an interruption: the time is that of all parts, with what was lost."
    assert said in by_name(study([whole, part], [studies.RANK]))["trade-offs"].about
    assert said not in by_name(study([whole, trial(1, {"lora.r": "5"}, 2.9)], [studies.RANK]))["trade-offs"].about
