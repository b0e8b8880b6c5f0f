"""A sweep's plan as text."""

from datetime import datetime

import pytest

from lowrung.report import plan_text
from lowrung.report.planned import PlannedBudget, PlannedMemory, PlannedPoint, PlannedSweep, PlannedTime, Remedy


def point(
    rank: int,
    rate: str = "1e-4",
    *,
    kept: int = 0,
    from_step: int = 0,
    fits: bool | None = True,
    left_out: str | None = None,
    halvings: int = 0,
) -> PlannedPoint:
    return PlannedPoint(
        point={"lora.r": str(rank), "train.learning_rate": rate},
        at="",
        stage="",
        seeds=[0, 1],
        steps=20,
        left_out=left_out,
        halvings=halvings,
        trainable=1000 * rank,
        memory_bytes=1e9 + 1e7 * rank,
        seconds=60.0 * rank,
        seconds_left=120.0 * rank,
        disk_bytes=1e6,
        kept=kept,
        from_step=from_step,
        fits=fits,
    )


MEMORY = PlannedMemory(
    point={"lora.r": "8"},
    parts={"libraries": 6e8, "weights": 3e8, "adapter": 0.0},
    phases={"training": 9e8, "gate": 1.2e9, "evaluation": 0.0},
    predicted=1.2e9,
    correction=1.0,
    room=1e9,
    room_free=None,
    room_name="main memory",
    at_once=1,
    remedies=[Remedy(["train.batch_size=4", "train.gradient_accumulation_steps=2"], "more passes", 9e8, 90.0, 1e9)],
)


TIME = PlannedTime(60.0, True, "2026-01-02T03:04:05+00:00", 0.25, "a test")


def plan(
    *points: PlannedPoint,
    memory: PlannedMemory | None = MEMORY,
    time: PlannedTime | None = None,
    budget: PlannedBudget | None = None,
    refused: str | None = None,
) -> PlannedSweep:
    return PlannedSweep(
        study="s",
        device="cpu",
        slots=2,
        threads=1,
        trials=len(points),
        at_most=False,
        runs=2 * len(points),
        kept=1,
        points=points,
        later=[],
        memory=memory,
        time=time,
        budget=budget,
        disk_bytes=4e6,
        disk_free=5e10,
        notes=["take note"],
        guesses=["a guess"],
        unfit=0,
        refused=refused,
    )


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"kept": 2}, "in the store"),
        ({"kept": 1}, "1 of 2 in the store"),
        ({"from_step": 10}, "goes on from step 10"),
        ({"fits": False}, "may not fit"),
        ({"fits": False, "halvings": 1}, "half the batch"),
        ({"fits": False, "halvings": 2}, "a quarter of the batch"),
        ({"fits": False, "halvings": 3}, "1/8 of the batch"),
        (
            {"kept": 2, "left_out": "plan/seconds is 9, and must be <= 5"},
            "left out (plan/seconds is 9, and must be <= 5)",
        ),
        ({"fits": None}, "to train"),
    ],
)
def test_a_row_says_what_is_done_already(state, said):
    assert plan_text.text(plan(point(4, **state))).splitlines()[4].endswith(f"  {said}")


def test_points_of_which_the_same_is_planned_are_one_row_where_there_are_many():
    rates = [f"{number}e-5" for number in range(50)]
    found = plan_text.points([point(rank, rate) for rank in range(1, 41) for rate in rates])
    lines = found.splitlines()
    assert lines[0].split() == [
        "lora.r",
        "train.learning_rate",
        "points",
        "steps",
        "seeds",
        "trainable",
        "memory",
        "time",
        "state",
    ]
    assert lines[1].split()[:5] == ["1", "50", "values", "50", "20"]
    assert len(lines) == 1 + plan_text.MOST_ROWS + 1
    assert lines[-1] == "and 500 points, 1.31 GB to 1.40 GB, 31 min to 40 min; --json has them all"


def test_few_points_are_shown_one_by_one():
    found = plan_text.points([point(4, rate) for rate in ("1e-4", "2e-4")])
    assert len(found.splitlines()) == 3
    assert "values" not in found


def test_a_plan_that_fits_no_column_is_in_blocks_and_loses_nothing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = plan_text.text(plan(point(4), point(8), time=TIME))
    settings = "train.gradient_accumulation_steps=2"  # it is copied, so no line breaks it
    assert max(len(line) for line in text.splitlines() if settings not in line) <= 40
    for said in ("lora.r", "8,000", "1.08 GB", "state ", "more passes", settings, "take note"):
        assert said in text
    assert "idle for 25% of the time" in " ".join(text.split())


def test_a_clock_shows_the_day_where_it_is_not_todays():
    now = datetime(2026, 11, 27, 23, 0)
    assert plan_text.clock("2026-11-27T23:30:00", now) == "23:30"
    assert plan_text.clock("2026-11-28T00:30:00", now) == "2026-11-28 00:30"


def test_what_is_not_known_is_said():
    text = plan_text.text(plan(point(4), memory=None))
    assert "memory  not known, nor is the time" in text
    assert "time    " not in text


def test_the_parts_of_training_stand_behind_it_and_not_behind_what_the_run_holds_at_most():
    text = " ".join(plan_text.text(plan(point(4))).split())
    assert "one after the other: training 900 MB (libraries 600 MB, weights 300 MB), gate 1.20 GB" in text


@pytest.mark.parametrize(
    ("starts", "needed", "price", "said"),
    [
        (2, 1.5, None, "8 GPU hours, 1.2 spent, the plan needs 1.5: all 2 runs start"),
        (
            1,
            9.44,
            2.5,
            "the plan needs 9.44, which cost 23.60 at 2.5 an hour: 1 of 2 runs start, and time, slots and disk are",
        ),
        (0, 9.44, None, "none of 2 runs starts"),
        (None, None, 2.5, "8 GPU hours, 1.2 spent; what the plan needs is not known"),
    ],
)
def test_a_budget_says_how_many_runs_start(starts, needed, price, said):
    text = plan_text.text(plan(point(4), budget=PlannedBudget("GPU hours", 8.0, 1.2, needed, 2, starts, price)))
    assert said in " ".join(text.split())


def test_why_the_sweep_itself_would_be_refused_is_said():
    assert "this sweep is refused: A budget must" in plan_text.text(plan(point(4), refused="A budget must"))
