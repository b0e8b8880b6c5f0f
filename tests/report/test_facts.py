"""What runs were predicted to take, beside what they took."""

import dataclasses

import pytest

from lowrung.report import facts, page, plots
from lowrung.report.page import tables
from lowrung.store.outcome import Status
from tests.report import studies

PLAN = {"plan/params_trainable": 610_560.0, "plan/memory_bytes": 2e9, "plan/seconds": 80.0, "plan/disk_bytes": 1e6}


def predicted(trial, plan=PLAN, **changes):
    """The trial, whose runs were predicted; with other fields of its runs."""
    runs = [dataclasses.replace(run, measurements={**run.measurements, **plan}, **changes) for run in trial.runs]
    return dataclasses.replace(trial, runs=runs)


def study(*trials, **more):
    return studies.study(list(trials), [studies.RANK], **more)


def one(number, *, status=Status.COMPLETE, **changes):
    return predicted(studies.trial(number, {"lora.r": "2"}, 3.0 + number / 10, status=status), **changes)


def shown(*trials, **more):
    return tables.of(study(*trials, **more))["facts"]


def test_a_whole_run_has_what_was_predicted_what_it_measured_and_their_ratio():
    table = shown(one(0))
    assert table.head == ["trial", "memory", "ratio", "time", "ratio", "trainable parameters", "settings"]
    expected = [
        "0",
        "2.00 GB → 2.10 GB",
        "1.05",
        "1 min 20 s → 1 min 40 s",
        "1.25",
        "610,560 → 610,560",
        "lora.r=2",
    ]
    assert table.cells == [expected]
    assert "Median ratios: memory 1.05, time 1.25, trainable parameters 1.00." in table.about


@pytest.mark.parametrize(
    ("changes", "memory", "why"),
    [
        ({"status": Status.PRUNED}, "2.00 GB → 2.10 GB", "pruned"),
        ({"status": Status.DIVERGED}, "2.00 GB → 2.10 GB", "diverged"),
        ({"status": Status.FAILED, "measurements": PLAN}, "2.00 GB → -", "failed"),
        ({"status": Status.OOM}, "2.00 GB → over 2.10 GB", "oom"),
        ({"facts": {"is_resumed": True}}, "2.00 GB → 2.10 GB", "went on from a checkpoint"),
        ({"facts": {"is_resumed": False, "parts": [[0, 9], [20, 80]]}}, "2.00 GB → 2.10 GB", "was begun anew"),
    ],
)
def test_a_run_that_did_a_part_of_the_plan_has_no_ratio(changes, memory, why):
    trial = one(0)
    trial = dataclasses.replace(trial, runs=[dataclasses.replace(run, **changes) for run in trial.runs])
    table = shown(trial)
    assert "ratio" not in table.head
    assert [(row[1], row[-1]) for row in table.cells] == [(memory, why)]
    assert facts.text(facts.ratios(facts.of(study(trial)))) == ""


def test_each_seed_has_a_row_and_a_run_of_two_trials_one():
    trial = predicted(studies.trial(0, {"lora.r": "2"}, seeds=(0, 1)))
    assert [row[:2] for row in shown(trial, seeds=2).cells] == [["0", "0"], ["0", "1"]]
    shared = [
        dataclasses.replace(each, runs=[dataclasses.replace(run, folder="runs/a") for run in each.runs])
        for each in (one(0), one(1))
    ]
    assert [row[0] for row in shown(*shared).cells] == ["0"]


def test_the_terminal_has_a_line_for_each_quantity_with_its_range():
    lines = facts.text(facts.ratios(facts.of(study(one(0), one(1), one(2))))).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["memory", "1.05", "1.05", "1.06", "3"],
        ["time", "1.26", "1.25", "1.27", "3"],
        ["trainable", "parameters", "1.00", "1.00", "1.00", "3"],
    ]


@pytest.mark.parametrize(
    ("plan", "ratio"),
    [
        ({"plan/seconds": 0.0}, None),  # nothing can be said of it
        ({"plan/seconds": float("nan")}, None),
        ({"plan/seconds": float("inf")}, None),
        ({"plan/seconds": 1e9}, "1e-07"),
        ({"plan/seconds": 1e-3}, "100000.00"),
    ],
)
def test_odd_predictions_are_shown_as_they_are(plan, ratio):
    table = shown(one(0, plan=plan))
    ratios = [cell for row in table.cells for title, cell in zip(table.head, row, strict=True) if title == "ratio"]
    assert ratios == ([ratio] if ratio else [])
    assert ("Median ratios" in table.about) == (ratio is not None)


def test_runs_of_older_versions_have_no_plan_and_it_is_said():
    old = study(studies.trial(0, {"lora.r": "2"}))
    assert tables.of(old)["facts"].about == "No run that has ended was predicted: older versions have no plan."
    assert tables.of(study())["facts"].about == "No run has ended."
    odd = study(one(0, facts={"plan": "none"}), one(1, facts={"plan": {"guesses": 3}}))
    assert "Guessed" not in tables.of(odd)["facts"].about
    assert "Guessed: a; b." in tables.of(study(one(0, facts={"plan": {"guesses": ["a", "b"]}})))["facts"].about


@pytest.mark.slow
def test_the_plot_has_the_runs_beside_the_diagonal_and_says_what_it_leaves_out():
    made = study(*(one(number) for number in range(4)), one(4, status=Status.PRUNED))
    [plot] = [plot for plot in plots.draw(made).plots if plot.name == "plan-and-facts"]
    diagonal, runs, *_ = plot.figure.data
    assert list(diagonal.x) == list(diagonal.y) == list(plot.figure.layout.xaxis.range)
    assert (list(runs.x), list(runs.y)) == ([2.0] * 4, [2.1, 2.11, 2.12, 2.13])
    assert plot.about.endswith("Left out: 1 run that ended early, or went on from a checkpoint.")
    assert "plan-and-facts" not in [plot.name for plot in plots.draw(study(one(0), one(1))).plots]


def test_the_page_has_the_section():
    made = study(one(0))
    assert '<section id="facts"><h2>Plan and facts</h2>' in page.render(made, plots.Drawn([], []))
