"""Questions that are badly put, and doubts that the results raise."""

import dataclasses
import math

import pytest

from lowrung.config.schema import Config, LoraConf, TrainConf
from lowrung.report import doubts, questions
from lowrung.report.leaderboard import Seed, TrialRow
from lowrung.report.questions import Recipe
from lowrung.store.outcome import Outcome, Status

PLAIN = Recipe("lora", 8, 2.0, "0.0003", 160.0)


def recipe(lora=None, **train):
    given = {"learning_rate": 3e-4, "max_steps": 20, "batch_size": 8, "epochs": None, **train}
    return Recipe.of(Config(lora=LoraConf(**{"r": 8, "alpha": 32.0, **(lora or {})}), train=TrainConf(**given)), 100)


class TestRecipes:
    @pytest.mark.parametrize(
        ("lora", "variant"),
        [
            ({}, "lora"),
            ({"init": "pissa", "use_dora": True}, "pissa+dora"),
            ({"use_rslora": True}, "rslora"),
            ({"lora_plus_ratio": 16.0}, "lora_plus"),
            ({"method": "full"}, "full"),
        ],
    )
    def test_variants(self, lora, variant):
        assert recipe(lora).variant == variant

    def test_scaling_and_rate(self):
        assert recipe().scaling == 4
        assert recipe({"r": 16, "use_rslora": True}).scaling == 8
        assert recipe(rate_factor=3.0).rate == "0.0009"
        assert recipe(learning_rate=None).rate == "the model's own"
        assert recipe({"method": "full"}, learning_rate=None, rate_factor=0.3).rate == (
            "0.3 times the model's own for full fine-tuning"
        )

    def test_examples(self):
        assert recipe(gradient_accumulation_steps=2).examples == 320
        assert recipe(max_steps=None, epochs=1.5, batch_size=32).examples == 150
        assert math.isnan(recipe(packing=True).examples)


def at(rank, scaling=2.0, rate="0.0003", variant="lora"):
    return Recipe(variant, rank, scaling, rate, 160.0)


class TestAtOneRate:
    @pytest.mark.parametrize(
        "recipes",
        [
            [at(4), at(8), at(16)],
            [at(4), at(8, rate="0.001"), at(8)],  # only one of them was tried at several rates
            [at(4, 8.0, variant="rslora"), at(16, 8.0, variant="rslora")],
        ],
    )
    def test_ranks_whose_alpha_follows(self, recipes):
        (said,) = questions.unfair(recipes)
        assert said.startswith("ranks 4")
        assert "at one learning rate (0.0003)" in said
        assert "Set lora.alpha=32, or search train.learning_rate too." in said

    @pytest.mark.parametrize(
        "recipes",
        [
            [PLAIN],
            [at(4, 8.0), at(8, 4.0), at(16, 2.0)],  # alpha is 32
            [at(rank, rate=rate) for rank in (4, 8) for rate in ("0.0003", "0.001")],
            [at(4, rate="0.001"), at(8, rate="0.0005")],  # each has its own
            [at(8), at(8, rate="0.001")],
        ],
    )
    def test_ranks_that_are_compared_well(self, recipes):
        assert questions.unfair(recipes) == []

    @pytest.mark.parametrize(
        "variant", ["pissa", "olora", "lora_ga", "dora", "lora_plus", "full", "rslora", "eva+dora"]
    )
    def test_variants_with_needs_of_their_own(self, variant):
        (said,) = questions.unfair([at(8, 4.0), at(8, 4.0, variant=variant)])
        assert said == (
            f"lora and {variant} are compared at one learning rate (0.0003), but {variant} needs another as a rule."
            " Search train.learning_rate for each."
        )
        assert questions.unfair([at(8, 4.0), at(8, 4.0, "0.0001", variant=variant)]) == []

    def test_variants_with_the_same_needs(self):
        assert questions.unfair([at(8, 4.0), at(8, 4.0, variant="gaussian"), at(8, 4.0, variant="eva")]) == []


class TestBudgets:
    def test_of_different_length(self):
        (said,) = questions.unfair([PLAIN, dataclasses.replace(PLAIN, examples=1600.0)])
        assert said.startswith("trials are trained on 160 to 1,600 examples: training longer may be all")

    def test_packed_steps_hold_more(self):
        (said,) = questions.unfair([PLAIN, dataclasses.replace(PLAIN, examples=math.nan)])
        assert said.startswith("trials with train.packing are trained on more tokens a step")

    def test_last_batches_may_differ(self):
        assert questions.unfair([PLAIN, dataclasses.replace(PLAIN, examples=164.0)]) == []


def row(number, status=Status.COMPLETE, **point):
    texts = {key.replace("__", "."): value for key, value in point.items()}
    return TrialRow(number, texts, Outcome(status), [Seed(0, Outcome(status), "")])


class TestEdges:
    RANKS = (row(0, lora__r="4"), row(1, lora__r="8"), row(2, lora__r="16"))

    @pytest.mark.parametrize(
        ("ties", "said"),
        [
            ([0], ["lora.r=4 is the smallest that was tried: try smaller ones."]),
            ([1], []),
            ([2], ["lora.r=16 is the largest that was tried: try larger ones."]),
            ([1, 2], []),
        ],
    )
    def test_of_a_list(self, ties, said):
        assert doubts.edges(self.RANKS, [self.RANKS[number] for number in ties], {}) == said

    def test_a_value_beyond_that_diverged_was_tried_and_one_that_failed_was_not(self):
        best, beyond = row(0, train__learning_rate="0.001"), {"train__learning_rate": "0.01"}
        low = row(1, train__learning_rate="0.0001")
        assert doubts.edges([best, low, row(2, Status.DIVERGED, **beyond)], [best], {}) == []
        assert len(doubts.edges([best, low, row(2, Status.FAILED, **beyond)], [best], {})) == 1

    @pytest.mark.parametrize(
        ("key", "values"),
        [
            ("lora__dropout", ("0.0", "0.1")),  # nothing lies below
            ("lora__r", ("1", "2")),
            ("data__seed", ("0", "1")),  # no magnitude
            ("lora", ("default", "dora")),
            ("lora__r", ("4",)),
            ("train__early_stopping", ("null", "3")),
        ],
    )
    def test_what_has_no_edge(self, key, values):
        rows = [row(number, **{key: value}) for number, value in enumerate(values)]
        assert doubts.edges(rows, rows[:1], {}) == []

    def test_of_a_variant_s_own_values(self):
        rates = {"default": ("0.1", "1", "3"), "pissa": ("0.1", "0.3")}
        rows = [row(n, lora=kind, rate=rate) for n, kind in enumerate(rates) for rate in rates[kind]]
        pissa = [one for one in rows if one.point["lora"] == "pissa"]
        assert doubts.edges(rows, [pissa[1]], {}) == ["rate=0.3 is the largest that was tried: try larger ones."]
        assert doubts.edges(rows, [pissa[1], rows[1]], {}) == []

    def test_ends_of_a_list_are_not_known_as_long_as_trials_of_it_are_to_come(self):
        interval = {"rate": (1.0, 10.0, True)}
        rows = [row(0, lora__r="4", rate="2"), row(1, lora__r="8", rate="10")]
        (said,) = doubts.edges(rows, rows[1:], interval, is_over=False)
        assert said.startswith("rate=10 is near the upper end of its interval")
        assert len(doubts.edges(rows, rows[1:], interval)) == 2

    def test_of_an_interval(self):
        rows = [row(n, train__learning_rate=text) for n, text in enumerate(("1.1e-05", "0.0001", "0.0009"))]
        interval = {"train.learning_rate": (1e-5, 1e-3, True)}
        found = [doubts.edges(rows, [one], interval) for one in rows]
        assert found[0] == [
            "train.learning_rate=1.1e-05 is near the lower end of its interval (1e-05): try smaller ones."
        ]
        assert found[1] == []
        assert found[2][0].endswith("near the upper end of its interval (0.001): try larger ones.")
        assert doubts.edges(rows, [rows[2]], {"train.learning_rate": (1e-5, 1e-2, True)}) == []
