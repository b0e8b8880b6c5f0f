"""What the leaderboard says, in words, from the files that runs left."""

import dataclasses
import math

import pytest

from lowrung.report import leaderboard, verdict
from lowrung.report.questions import Recipe
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from tests.evidence import TOKENS, ranks, run, trial

LOSS = {"eval/loss": "minimize"}
ONE_SEED = """\
  ± is the 95% t interval over 12 held-out examples, paired; one seed: training noise is not in it.
  Worse is what steps of tests over all pairs show (wrongly in at most 5% of sweeps); else a tie."""


def shown(rows, objectives=LOSS, **more):
    found = verdict.make(rows, objectives, **more)
    return f"{leaderboard.render(rows, objectives, found.cells)}\n\n{found}"


def answer(rows, objectives=LOSS, **more):
    return verdict.make(rows, objectives, **more).sentences[0]


def notes(rows, objectives=LOSS, **more):
    return verdict.make(rows, objectives, **more).sentences[1:]


def test_ties_and_the_cheapest_of_them(tmp_path):
    assert shown(ranks(tmp_path, 0.001, 0.0, 0.3)) == (
        f"""\
#  trial  lora.r  trainable  eval loss      against the best  merged vs adapter  seconds
1      1       8      2,000  4.000 → 2.568  best
2      0       4      1,000  4.000 → 2.569  tie
3      2      16      4,000  4.000 → 2.868  +0.300 ± 0.027

verdict: lora.r=4 and 8 tie (95%); the cheapest is lora.r=4 (trial 0, 1,000 trainable parameters)
{ONE_SEED}
  A tie is no proof of equality: one of these may still be worse than the best by 0.039."""
    )


def test_a_winner_and_by_how_much(tmp_path):
    assert shown(ranks(tmp_path, 0.5, 0.0, 0.1)) == (
        f"""\
#  trial  lora.r  trainable  eval loss      against the best  merged vs adapter  seconds
1      1       8      2,000  4.000 → 2.568  best
2      2      16      4,000  4.000 → 2.668  +0.100 ± 0.027
3      0       4      1,000  4.000 → 3.068  +0.500 ± 0.038

verdict: lora.r=8 (trial 1) is better than all others: the next, lora.r=16, is worse by
  0.100 ± 0.027
{ONE_SEED}"""
    )


class TestTheAnswer:
    def test_of_two(self, tmp_path):
        assert answer(ranks(tmp_path, 0.0, 0.5)).startswith("lora.r=4 (trial 0) is better than lora.r=8, by 0.500 ± ")

    def test_of_one_or_none(self, tmp_path):
        (one,) = ranks(tmp_path, 0.0)
        assert answer([one]) == "trial 0 is the only trial that can be judged: there is nothing to compare it with"
        pruned = dataclasses.replace(one, number=1, outcome=Outcome(Status.PRUNED, cause="x"))
        diverged = dataclasses.replace(one, number=2, outcome=Outcome(Status.DIVERGED, cause="x"))
        assert answer([one, pruned]).startswith("trial 0 is the only one of 2 trials that can be judged")
        assert answer([pruned, pruned, diverged]) == (
            "no trial was trained to its end (2 pruned, 1 diverged): none can be judged"
        )
        assert answer([]) == "no trial has ended"
        assert answer([dataclasses.replace(one, broken=["x <= 1"])]).startswith("no complete trial keeps to the const")
        assert answer([one], {"eval/bleu": "maximize"}) == "no trial has measured eval/bleu: take none"

    def test_of_fifty(self, tmp_path):
        rows = [
            trial(n, {"a": str(n), "b": str(n % 7)}, run(tmp_path / str(n), spread=0.3, params__trainable=n + 1.0))
            for n in range(50)
        ]
        assert answer(rows) == "50 trials tie (95%); the cheapest is a=0 b=0 (trial 0, 1 trainable parameters)"

    def test_ties_are_named_by_what_sets_them_apart(self, tmp_path):
        points = [("4", "1", 0.0), ("8", "1", 0.001), ("8", "3", 0.5)]
        rows = [
            trial(
                n, {"lora.r": r, "factor": f}, run(tmp_path / str(n), loss=x, spread=0.02, params__trainable=float(r))
            )
            for n, (r, f, x) in enumerate(points)
        ]
        assert answer(rows) == (
            "lora.r=4 and 8 tie (95%); the cheapest is lora.r=4 factor=1 (trial 0, 4 trainable parameters)"
        )
        rows[2] = dataclasses.replace(rows[2], stage="seeds", stage_index=1)
        assert answer(rows).startswith(
            "lora.r=8 factor=3 (trial 2) is the best of the last stage, but trials 0 and 1 of an earlier one are"
            " better, by up to 0.50"
        )

    def test_ties_of_equal_cost_are_led_by_the_best(self, tmp_path):
        rows = [
            trial(n, {"lr": str(rate)}, run(tmp_path / str(n), loss=loss, spread=0.02, params__trainable=8.0))
            for n, (rate, loss) in enumerate([(0.1, 0.001), (0.2, 0.0)])
        ]
        assert answer(rows) == "lr=0.1 and 0.2 tie (95%), at equal cost; the best is lr=0.2 (trial 1)"

    @pytest.mark.parametrize(
        ("prefer", "end"),
        [
            (["adapter/bytes"], "the cheapest is lora.r=8 (trial 1, 100 bytes)"),
            (["params/rank_mean", "time/total_seconds"], "the cheapest is lora.r=8 (trial 1, time/total_seconds 10)"),
            (["forget/loss_delta"], "the smallest forget/loss_delta has lora.r=8 (trial 1, forget/loss_delta 0.5)"),
        ],
    )
    def test_another_order_decides_otherwise(self, tmp_path, prefer, end):
        rows = ranks(tmp_path, 0.0, 0.001)
        for number, row in enumerate(rows):
            row.outcome.metrics.update({"adapter/bytes": 200.0 - 100 * number, "forget/loss_delta": 1 - number / 2})  # type: ignore[attr-defined]
            row.outcome.measurements["time/total_seconds"] = 20.0 - 10 * number  # type: ignore[index]
        assert answer(rows, prefer=prefer).endswith(end)

    def test_counts_have_no_interval(self, tmp_path):
        rows = ranks(tmp_path, 0.0, 0.1)
        assert answer(rows, {"params/trainable": "minimize"}) == "lora.r=4 (trial 0) is better than lora.r=8, by 1,000"
        assert notes(rows, {"params/trainable": "minimize"}) == []
        same = [dataclasses.replace(row, outcome=rows[0].outcome) for row in rows]
        assert answer(same, {"params/trainable": "minimize"}).startswith(
            "lora.r=4 and 8 have the same params/trainable"
        )

    def test_examples_that_all_differ_by_the_same(self, tmp_path):
        answers = [[n + example / 10 for example in range(12)] for n in range(2)]
        rows = [trial(n, {}, run(tmp_path / str(n), answers={"mine": each})) for n, each in enumerate(answers)]
        assert answer(rows, {"eval/mine": "maximize"}) == "trial 1 is better than trial 0, by 1"

    def test_settings_that_a_later_stage_trained_again_are_one_choice(self, tmp_path):
        """As where the gate is left to the last stage."""
        points = [("16", "1.8", 0.0, 0), ("16", "1", 0.3, 0), ("16", "1.8", 0.0, 1), ("64", "1.8", 0.1, 1)]
        rows = [
            dataclasses.replace(
                trial(n, {"lora.r": r, "factor": factor}, run(tmp_path / str(n), loss=loss, spread=0.02)),
                stage=("rate", "rank")[stage],
                stage_index=stage,
            )
            for n, (r, factor, loss, stage) in enumerate(points)
        ]
        assert answer(rows).startswith("lora.r=16 factor=1.8 (trial 2) is better than all others: the next, lora.r=64")
        assert "Counted once: trial 0, whose settings a later stage trained again." in notes(rows)
        assert not any("no proof" in note for note in notes(rows))
        assert answer([rows[0], rows[2]]).startswith("trial 2 is the only choice of 2 trials that can be judged")
        assert notes([rows[0], rows[2]]) == ["Counted once: trial 0, whose settings a later stage trained again."]
        assert answer([rows[0], dataclasses.replace(rows[2], stage="rate", stage_index=0)]).startswith("trials 0 and 2")

    def test_the_winner_is_named_by_its_settings_also_where_they_are_many(self, tmp_path):
        points = [{"lora.r": str(2**n), "train.rate_factor": f"1.{n}", "lora": "pissa", "a": str(n)} for n in range(3)]
        rows = [trial(n, point, run(tmp_path / str(n), loss=n / 2)) for n, point in enumerate(points)]
        assert answer(rows).startswith("lora.r=1 train.rate_factor=1.0 a=0 (trial 0) is better than all others")

    def test_a_winner_s_settings_are_those_that_the_study_varied_not_what_its_complete_trials_vary(self, tmp_path):
        rows = [
            trial(n, {"lora.r": r, "factor": "2"}, run(tmp_path / str(n), loss=n)) for n, r in enumerate(("4", "8"))
        ]
        pruned = dataclasses.replace(
            rows[1], number=2, point={"lora.r": "4", "factor": "1"}, outcome=Outcome(Status.PRUNED)
        )
        assert answer([*rows, pruned]).startswith("lora.r=4 factor=2 (trial 0) is better than lora.r=8 factor=2, by")

    def test_long_settings_give_way_to_numbers(self, tmp_path):
        rows = [
            trial(n, {"lora.target_modules": f"[{','.join(['q_proj'] * 9)},{n}]"}, run(tmp_path / str(n)))
            for n in range(2)
        ]
        assert answer(rows) == "trials 0 and 1 tie (95%), at equal cost; the best is trial 0"


class TestWhatIsToBeKnown:
    def test_of_seeds(self, tmp_path):
        rows = [
            trial(n, {}, *(run(tmp_path / f"{n}{s}", s, loss=n / 2 + s / 50, spread=0.02) for s in range(3)))
            for n in range(2)
        ]
        assert notes(rows)[0] == "± is the 95% t interval over 12 held-out examples, paired, and 3 seeds."

    def test_of_a_metric_without_sums(self, tmp_path):
        rows = [
            trial(n, {}, *(run(tmp_path / f"{n}{s}", s, eval__bleu=9.0 * n + s + n * s / 9) for s in range(3)))
            for n in range(2)
        ]
        assert notes(rows, {"eval/bleu": "maximize"})[0] == (
            "± is the 95% t interval over 3 seeds, paired; over examples eval/bleu has no sums."
        )
        single = [dataclasses.replace(row, seeds=row.seeds[:1]) for row in rows]
        assert answer(single, {"eval/bleu": "maximize"}) == (
            "trial 1 has the best eval/bleu, but nothing is known of how sure that is"
        )
        assert notes(single, {"eval/bleu": "maximize"})[0].startswith("Not compared: trial 0. At least 2 seeds")

    def test_of_evidence_that_is_not_there(self, tmp_path):
        rows = ranks(tmp_path, 0.0, 0.3, 0.3, 0.3)
        for number in (1, 3):
            RunFolder(tmp_path / str(number)).held_out.unlink()
        assert answer(rows).startswith("lora.r=4 (trial 0) is better than lora.r=16, by 0.300 ± ")
        assert answer(rows).endswith(", and 2 others could not be compared")
        assert notes(rows)[-1] == (
            "Not compared: trials 1 and 3. A run left no held_out.parquet, its scores by example."
        )

    def test_of_other_data_and_of_one_example(self, tmp_path):
        rows = ranks(tmp_path / "a", 0.0, 0.3)
        rows[1] = trial(1, rows[1].point, run(tmp_path / "b", loss=0.3, data="other"))
        assert notes(rows) == ["Not compared: trial 1. Scored on other held-out data than the best, trial 0."]
        assert "At least 2 held-out examples are needed" in notes(ranks(tmp_path / "c", 0.0, 0.3, examples=1))[0]

    def test_of_scores_that_are_maximised(self, tmp_path):
        right = [TOKENS // 4, TOKENS // 2]
        rows = [trial(n, {}, run(tmp_path / str(n), right=each)) for n, each in enumerate(right)]
        found = verdict.make(rows, {"eval/token_accuracy": "maximize"})
        assert found.cells[0].startswith("-0.2")
        assert found.sentences[0].startswith("trial 1 is better than trial 0, by 0.2")

    def test_of_the_perplexity_and_of_several_objectives(self, tmp_path):
        said = notes(ranks(tmp_path, 0.0, 0.3), {"eval/perplexity": "minimize", "params/trainable": "minimize"})
        assert said[2:] == [
            "Differences are those of eval/loss, of which eval/perplexity follows.",
            "All this is by eval/perplexity, the first objective.",
        ]

    def test_of_pruned_trials(self, tmp_path):
        rows = ranks(tmp_path, 0.0, 0.3, 0.1)
        rows[2] = dataclasses.replace(rows[2], outcome=Outcome(Status.PRUNED, rows[2].outcome.metrics, cause="x"))
        assert notes(rows)[-1] == "Not judged: trial 2, pruned before the end of training."
        rows[2] = dataclasses.replace(rows[2], outcome=Outcome(Status.COMPLETE))
        assert notes(rows)[-1] == "Not judged: trial 2, without a finite eval/loss."

    def test_of_metrics_that_are_not_finite(self, tmp_path):
        rows = ranks(tmp_path, 0.0, 0.3, 0.1)
        for row in rows:
            row.outcome.metrics["eval/mine"] = math.nan  # type: ignore[index]
        assert answer(rows, {"eval/mine": "maximize"}) == "no trial has a finite eval/mine: take none"
        rows[1].outcome.metrics["eval/mine"] = 1.0  # type: ignore[index]
        assert answer(rows, {"eval/mine": "maximize"}).startswith("lora.r=8 (trial 1) is the only one of 3 trials")
        rows[2].outcome.metrics["eval/mine"] = math.inf  # type: ignore[index]
        assert answer(rows, {"eval/mine": "maximize"}).startswith("lora.r=8 (trial 1) is the only one of 3 trials")


def test_lines_have_at_most_100_columns(tmp_path):
    rows = ranks(tmp_path, *[0.01 * (n % 5) for n in range(12)], spread=0.2)
    assert max(map(len, str(verdict.make(rows, LOSS, smallest=1e-4)).splitlines())) <= 100


class TestTheDifferenceThatMatters:
    def test_intervals_that_are_wider(self, tmp_path):
        (warning,) = verdict.make(ranks(tmp_path, 0.001, 0.0, 0.002), LOSS, smallest=0.005).warnings
        assert warning.startswith("intervals of ties are up to ± 0.03")
        assert "wider than hydra.sweeper.difference=0.005: about " in warning
        assert "held-out examples would do (data.eval_size=" in warning

    def test_ties_that_are_equal_enough(self, tmp_path):
        found = verdict.make(ranks(tmp_path, 0.001, 0.0, 0.002), LOSS, smallest=0.05)
        assert found.sentences[-1] == "What ties is equal to the best within hydra.sweeper.difference=0.05."
        assert found.warnings == []

    def test_what_is_worse_by_less(self, tmp_path):
        assert notes(ranks(tmp_path, 0.1, 0.0, 0.5), smallest=0.2)[-1] == (
            "Worse, but by less than hydra.sweeper.difference=0.2: trial 0."
        )


def test_the_warnings_are_about_trials_that_were_judged(tmp_path):
    rows = ranks(tmp_path, 0.1, 0.0, 0.5)
    recipes = {n: Recipe("lora", 4 * 2**n, 2.0, "0.0003", 160.0) for n in range(3)}
    (warning,) = verdict.make(rows, LOSS, recipes=recipes).warnings
    assert warning.startswith("ranks 4, 8 and 16 are compared at one learning rate (0.0003) with alpha / r at 2")
    broken = [dataclasses.replace(row, broken=["x"] * (n > 0)) for n, row in enumerate(rows)]
    assert verdict.make(broken, LOSS, recipes=recipes).warnings == [
        "lora.r=4 is the smallest that was tried: try smaller ones."
    ]
