import dataclasses
import json
from typing import Any

import pytest

from lowrung.report import leaderboard
from lowrung.report.leaderboard import Seed, TrialRow
from lowrung.store.outcome import Outcome, Status, over_seeds

LOSS = {"eval/loss": "minimize"}


def row(number: int, loss: float | None = None, *, status: Status = Status.COMPLETE, **metrics: float) -> TrialRow:
    scores = {} if loss is None else {"base/eval_loss": 4.0, "eval/loss": loss}
    given = {name.replace("__", "/"): value for name, value in metrics.items()}
    cause = None if status is Status.COMPLETE else "because"
    return one_seed(number, {"lora.r": str(2 * number)}, Outcome(status, {**scores, **given}, cause=cause))


def one_seed(number: int, point: dict[str, str], outcome: Outcome, folder: str = "runs/ab", **facts: Any) -> TrialRow:
    return TrialRow(number, point, outcome, [Seed(0, outcome, folder)], **facts)


def order(rows: list[TrialRow], objectives: dict[str, str]) -> list[int]:
    return [found.number for found in leaderboard.ranked(rows, objectives)]


class TestRanking:
    ROWS = (row(0, 3.0), row(1, 1.0), row(2, 2.0))

    @pytest.mark.parametrize(("direction", "expected"), [("minimize", [1, 2, 0]), ("maximize", [0, 2, 1])])
    def test_the_best_comes_first(self, direction, expected):
        assert order([*self.ROWS], {"eval/loss": direction}) == expected

    @pytest.mark.parametrize("direction", ["minimize", "maximize"])
    def test_what_did_not_complete_comes_last_by_number(self, direction):
        others = [row(9, status=Status.FAILED), row(5, -99.0, status=Status.PRUNED), row(7, 99.0, status=Status.OOM)]
        assert order([*others, *self.ROWS], {"eval/loss": direction})[3:] == [5, 7, 9]

    def test_the_first_objective_ranks(self):
        rows = [row(0, 1.0, adapter__bytes=5), row(1, 2.0, adapter__bytes=4)]
        assert order(rows, {"adapter/bytes": "minimize", "eval/loss": "minimize"}) == [1, 0]

    def test_equals_stay_by_number(self):
        assert order([row(2, 1.0), row(0, 1.0), row(1, 1.0)], LOSS) == [0, 1, 2]

    def test_a_complete_one_without_the_score_comes_after_those_with_it(self):
        assert order([row(0), row(1, 5.0)], LOSS) == [1, 0]

    def test_zero_is_a_score(self):
        assert order([row(0, 0.5), row(1, 0.0)], LOSS) == [1, 0]


TWO = {"eval/exact_match": "maximize", "params/trainable": "minimize"}
SEVERAL = (
    row(0, 1.0, eval__exact_match=0.5, params__trainable=10),
    row(1, 1.0, eval__exact_match=0.9, params__trainable=90),
    row(2, 1.0, eval__exact_match=0.8, params__trainable=95),  # 1 is better in both
    row(3, 1.0, eval__exact_match=0.5, params__trainable=10),  # 0's equal
    row(4, 1.0, eval__exact_match=0.5, params__trainable=11),
    row(5, 1.0, eval__exact_match=0.95),
    row(6, 1.0, eval__exact_match=float("nan"), params__trainable=1),
    row(7, 1.0, status=Status.PRUNED, eval__exact_match=1.0, params__trainable=1),
    dataclasses.replace(row(8, 1.0, eval__exact_match=1.0, params__trainable=1), broken=["eval/loss <= 0.5"]),
)


class TestSeveralObjectives:
    def test_whom_no_other_is_better_than_comes_first_then_the_first_objective_counts(self):
        assert leaderboard.pareto_set(SEVERAL, TWO) == {0, 1, 3}
        assert order([*SEVERAL], TWO) == [1, 0, 3, 5, 2, 4, 8, 6, 7]

    def test_equals_in_the_first_objective_go_by_the_next(self):
        rows = [row(0, 1.0, adapter__bytes=5), row(1, 1.0, adapter__bytes=4)]
        assert order(rows, {"eval/loss": "minimize", "adapter/bytes": "minimize"}) == [1, 0]

    def test_the_table_and_the_record_mark_it(self, tmp_path):
        lines = leaderboard.render(SEVERAL, TWO).splitlines()[1:]
        assert [line.endswith("Pareto") for line in lines] == [True] * 3 + [False] * 6
        finite = [trial for trial in SEVERAL if trial.number != 6]
        leaderboard.write(tmp_path / "leaderboard.json", finite, TWO)
        board = json.loads((tmp_path / "leaderboard.json").read_text())
        assert [record["trial"] for record in board if record["pareto"]] == [1, 0, 3]

    def test_one_objective_has_no_such_set(self, tmp_path):
        assert leaderboard.pareto_set(SEVERAL, LOSS) == frozenset()
        leaderboard.write(tmp_path / "leaderboard.json", ROWS, LOSS)
        assert all("pareto" not in record for record in json.loads((tmp_path / "leaderboard.json").read_text()))


ROWS = [
    one_seed(
        0,
        {"lora.r": "4", "lora.target_modules": "[q_proj,v_proj]"},
        Outcome(
            Status.COMPLETE,
            {
                "base/eval_loss": 3.919,
                "eval/loss": 3.1904,
                "params/trainable": 1221120,
                "merge/passed": 1.0,
                "merge/max_abs_logit_diff": 0.00012,
            },
            {"time/total_seconds": 61.4},
        ),
        "runs/a",
    ),
    one_seed(
        1,
        {"lora.r": "16", "lora.target_modules": "[q_proj,v_proj]"},
        Outcome(
            Status.COMPLETE,
            {
                "base/eval_loss": 3.919,
                "eval/loss": 3.0,
                "params/trainable": 4884480,
                "merge/passed": 0.0,
                "merge/max_abs_logit_diff": 7.5,
            },
            {"time/total_seconds": 59.5},
        ),
        "runs/b",
        is_reused=True,
    ),
    one_seed(
        2,
        {"lora.r": "8", "lora.target_modules": "[/b]"},
        Outcome(Status.DIVERGED, {"diverged/step": 1}, {"time/total_seconds": 9.0}, cause="train/loss is not finite"),
        "runs/c",
    ),
]
GOLDEN = """\
#  trial  lora.r  lora.target_modules  trainable  eval loss      merged vs adapter             seconds
1      1      16      [q_proj,v_proj]  4,884,480  3.919 → 3.000  FAILED  max |Δlogit| 7.5e+00       60  reused
2      0       4      [q_proj,v_proj]  1,221,120  3.919 → 3.190  passed  max |Δlogit| 1.2e-04       61
-      2       8                 [/b]                                                                9  diverged"""


class TestRendering:
    def test_a_whole_table(self):
        assert leaderboard.render(ROWS, LOSS) == GOLDEN

    def test_other_objectives_have_a_column(self):
        head, first, *_ = leaderboard.render(
            [row(0, 1.0, adapter__bytes=123.0)], {"eval/loss": "minimize", "adapter/bytes": "minimize"}
        ).splitlines()
        assert head.split() == ["#", "trial", "lora.r", "trainable", "eval", "loss", "adapter/bytes", "merged", "vs",
                                "adapter", "seconds"]  # fmt: skip
        assert "123" in first

    def test_answers_have_a_column_where_there_are_any(self):
        rows = [row(0, 1.0, eval__exact_match=0.25), row(1, status=Status.FAILED)]
        assert "eval/exact_match" in leaderboard.render(rows, LOSS)
        assert "0.25" in leaderboard.render(rows, LOSS)
        assert leaderboard.render(rows, {"eval/exact_match": "maximize"}).count("eval/exact_match") == 1
        assert "eval/exact_match" not in leaderboard.render(rows[1:], LOSS)

    @pytest.mark.parametrize("status", [status for status in Status if status is not Status.COMPLETE])
    def test_every_end_has_its_word_and_no_place(self, status):
        line = leaderboard.render([row(0, status=status)], LOSS).splitlines()[1]
        assert line.startswith("-")
        assert line.endswith(str(status))

    def test_there_may_be_no_axis_and_no_row(self):
        assert leaderboard.render([], LOSS).startswith("#  trial  trainable")
        assert len(leaderboard.render([one_seed(0, {}, Outcome(Status.COMPLETE))], LOSS).splitlines()) == 2


def test_several_seeds_show_their_spread():
    seeds = [
        Seed(seed, Outcome(Status.COMPLETE, {"base/eval_loss": 4.0, "eval/loss": 3.0 + seed / 10}), f"runs/{seed}")
        for seed in (0, 1, 2)
    ]
    trial = TrialRow(0, {}, over_seeds({seed.seed: seed.outcome for seed in seeds}), seeds)
    assert "4.000 → 3.100 ± 0.1" in leaderboard.render([trial], LOSS)


def test_the_head_says_which_value_over_the_seeds_is_not_the_mean(tmp_path):
    seeds = [Seed(seed, Outcome(Status.COMPLETE, {"base/eval_loss": 4.0, "eval/loss": loss}), "") for seed, loss in
             enumerate((3.0, 3.1, 3.5))]  # fmt: skip
    outcome = over_seeds({seed.seed: seed.outcome for seed in seeds}, "median", LOSS)
    trial = TrialRow(0, {}, outcome, seeds, over_seeds={"eval/loss": "median"})
    head, line = leaderboard.render([trial], LOSS).splitlines()
    assert "eval loss (median)" in head
    assert "4.000 → 3.100 ± 0.26" in line
    leaderboard.write(tmp_path / "leaderboard.json", [trial], LOSS)
    assert json.loads((tmp_path / "leaderboard.json").read_text())[0]["over_seeds"] == {"eval/loss": "median"}


def test_the_record_holds_it_all_best_first(tmp_path):
    leaderboard.write(tmp_path / "leaderboard.json", ROWS, LOSS)
    best, second, failed = json.loads((tmp_path / "leaderboard.json").read_text())
    assert [best["trial"], second["trial"], failed["trial"]] == [1, 0, 2]
    assert best == {
        "trial": 1,
        "point": {"lora.r": "16", "lora.target_modules": "[q_proj,v_proj]"},
        "status": "complete",
        "cause": None,
        "metrics": dict(ROWS[1].outcome.metrics),
        "measurements": {"time/total_seconds": 59.5},
        "reused": True,
        "broken": [],
        "over_seeds": {},
        "runs": [
            {"seed": 0, "status": "complete", "metrics": dict(ROWS[1].outcome.metrics), "results": "runs/b"},
        ],
        "against_best": None,
    }
    assert (failed["status"], failed["cause"]) == ("diverged", "train/loss is not finite")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.055057632327986945", "0.05506"),
        ("1.2345678e-05", "1.235e-05"),
        ("0.0003", "0.0003"),
        ("16", "16"),
        ("[q_proj,v_proj]", "[q_proj,v_proj]"),
    ],
)
def test_drawn_numbers_are_shown_with_four_digits(value, text):
    assert leaderboard.shown(value) == text
    assert leaderboard.name({"a": value, "b": "1"}) == f"a={text} b=1"
