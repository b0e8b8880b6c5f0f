import math

import numpy as np
import pytest
from scipy.special import bdtr

from lowrung.comparison.paired import NotComparable, Sums, difference

TOKENS = np.array([4.0, 10, 1, 7, 20])
NLL = np.array([8.0, 21, 2, 9, 33])
CHANGED = np.array([9.0, 19, 2, 12, 34])
ONES = np.ones(5)


def runs(*numerators, tokens=TOKENS, unit=0.0):
    """A trial with a run for each of the seeds 0, 1, …"""
    return {seed: Sums(np.asarray(one, float), tokens, unit) for seed, one in enumerate(numerators)}


def answers(right, wrong):
    """Two runs of 100 answers that differ in so many, won and lost."""
    one, other = np.zeros(100), np.zeros(100)
    one[:right], other[right : right + wrong] = 1, 1
    return runs(one, tokens=np.ones(100), unit=1), runs(other, tokens=np.ones(100), unit=1)


class TestOneSeed:
    def test_examples_of_one_length_by_hand(self):
        """d = 1, 0, 2, -1, 3 has the mean 1, and sum (d - 1)^2 = 10: Student's t."""
        found = difference(runs([2, 1, 3, 0, 4], tokens=ONES), runs(ONES, tokens=ONES))
        assert found.estimate == pytest.approx(1)
        assert found.standard_error == pytest.approx(math.sqrt(10 / 4 / 5))
        assert found.degrees == pytest.approx(4)
        assert found.half_width == pytest.approx(2.7764451 * math.sqrt(0.5))
        assert found.p_value == pytest.approx(0.230200, abs=1e-6)
        assert (found.examples, found.seeds, found.has_training_noise) == (5, (0,), False)

    def test_the_variance_is_the_jackknife_of_the_ratio(self):
        """Leave each example out, and take n - 1 over n of the sum of squares about the ratio of all."""
        found = difference(runs(CHANGED), runs(NLL))
        d = CHANGED - NLL
        without = [(d.sum() - d[i]) / (TOKENS.sum() - TOKENS[i]) for i in range(5)]
        assert found.estimate == pytest.approx(3 / 42)
        assert found.standard_error**2 == pytest.approx(4 / 5 * np.square(np.array(without) - 3 / 42).sum())

    def test_unequal_lengths_leave_fewer_degrees_of_freedom(self):
        """By simulation of the quadratic form that the formula is of: 2 mean^2 / variance."""
        rng = np.random.default_rng(0)
        d = np.sqrt(TOKENS) * rng.standard_normal((40_000, 5))
        e = (d - d.sum(1, keepdims=True) / 42 * TOKENS) / (1 - TOKENS / 42)
        variance = np.square(e).sum(1)
        found = difference(runs(CHANGED), runs(NLL))
        assert found.degrees == pytest.approx(2 * variance.mean() ** 2 / variance.var(), rel=0.05)
        assert found.degrees < 3

    def test_the_unit_of_the_denominator_and_the_order_do_not_matter(self):
        one, other = CHANGED, NLL
        there, back = difference(runs(one), runs(other)), difference(runs(other), runs(one))
        bytes_ = difference(runs(one, tokens=TOKENS * 4), runs(other, tokens=TOKENS * 4))
        assert (back.estimate, back.half_width) == (-there.estimate, there.half_width)
        assert (bytes_.estimate * 4, bytes_.half_width * 4) == pytest.approx((there.estimate, there.half_width))
        assert bytes_.p_value == pytest.approx(there.p_value)

    def test_pairs_see_what_two_runs_alone_do_not(self):
        """As measured: a run's loss is known to 0.16, and its difference to another run's to 0.002."""
        rng = np.random.default_rng(0)
        tokens = np.full(32, 16.0)
        base = tokens * rng.normal(3, 0.9, 32)
        one, other = runs(base + tokens * rng.normal(0.01, 0.012, 32), tokens=tokens), runs(base, tokens=tokens)
        alone = difference(one, runs(np.zeros(32), tokens=tokens))
        assert alone.standard_error == pytest.approx(0.16, rel=0.2)
        assert difference(one, other).standard_error == pytest.approx(0.0021, rel=0.2)
        assert difference(one, other).p_value < 0.01

    def test_the_same_run_ties_exactly(self):
        found = difference(runs(NLL), runs(NLL))
        assert (found.estimate, found.half_width, found.p_value) == (0, 0, 1)

    def test_the_same_difference_everywhere_is_certain(self):
        found = difference(runs(NLL + TOKENS), runs(NLL))
        assert found.estimate == pytest.approx(1)
        assert found.p_value < 1e-12

    def test_an_example_without_tokens_says_nothing(self):
        one, other = np.append(CHANGED, 0), np.append(NLL, 0)
        tokens = np.append(TOKENS, 0)
        assert difference(runs(one, tokens=tokens), runs(other, tokens=tokens)) == difference(
            runs(one[:-1]), runs(other[:-1])
        )


class TestCounts:
    @pytest.mark.parametrize(("right", "wrong"), [(5, 0), (6, 0), (9, 1), (8, 3), (12, 4), (20, 9)])
    def test_as_mcnemars_test_of_what_was_won_and_lost(self, right, wrong):
        """Between its mid-p value, which is right on average, and its exact one, which is never too small."""
        found = difference(*answers(right, wrong))
        exact = 2 * bdtr(wrong, right + wrong, 0.5)
        middle = exact - math.comb(right + wrong, wrong) / 2 ** (right + wrong)
        assert found.estimate == pytest.approx((right - wrong) / 100)
        assert middle < found.p_value < 1.1 * exact

    def test_the_same_few_answers_do_not_show_equality(self):
        """The rule of three: with no event in 100, the rate may be 0.03."""
        found = difference(*answers(0, 0))
        assert found.p_value == 1
        assert 0.025 < found.half_width < 0.035


class TestSeeds:
    ONE = runs([2, 1, 3, 0, 4], [3, 1, 4, 1, 5], [2, 2, 2, 0, 3], tokens=ONES)
    OTHER = runs([1, 1, 1, 1, 1], [1, 0, 1, 1, 2], [2, 1, 1, 1, 1], tokens=ONES)

    def test_both_ways_of_chance_by_hand(self):
        """Two-way clusters of the 3 x 5 differences, each its own sum of squares."""
        d = np.array([[1, 0, 2, -1, 3], [2, 1, 3, 0, 3], [0, 1, 1, -1, 2]])
        found = difference(self.ONE, self.OTHER)
        mean, of_seeds = d.mean(), d.mean(axis=1)
        examples = np.square(d.mean(axis=0) - mean).sum() / 4 / 5
        seeds = of_seeds.var(ddof=1) / 3
        both = np.square(d - d.mean(axis=0) - of_seeds[:, None] + mean).sum() / (4 * 2) / (3 * 5)
        assert found.estimate == pytest.approx(mean)
        assert found.of_examples == pytest.approx(examples)
        assert found.of_seeds == pytest.approx(seeds - both)
        assert found.degrees == pytest.approx((examples + seeds - both) ** 2 / (examples**2 / 4 + seeds**2 / 2))
        assert (found.seeds, found.has_training_noise) == ((0, 1, 2), True)

    def test_seeds_that_agree_add_nothing(self):
        same = dict.fromkeys(range(3), self.ONE[0])
        found = difference(same, dict.fromkeys(range(3), self.OTHER[0]))
        alone = difference({0: self.ONE[0]}, {0: self.OTHER[0]})
        assert found.half_width == pytest.approx(alone.half_width)
        assert found.has_training_noise

    def test_the_seeds_that_both_have_are_compared(self):
        fewer = {1: self.OTHER[1], 2: self.OTHER[2], 7: self.OTHER[0]}
        both = {seed: self.ONE[seed] for seed in (1, 2)}
        assert difference(self.ONE, fewer) == difference(both, fewer)
        assert difference(self.ONE, {1: self.OTHER[1]}).has_training_noise is False

    def test_without_a_common_seed_examples_still_pair(self):
        """Welch over the seeds: the variances of two independent means."""
        others = {seed + 10: run for seed, run in self.OTHER.items()}
        found, paired = difference(self.ONE, others), difference(self.ONE, self.OTHER)
        assert found.estimate == pytest.approx(paired.estimate)
        assert found.of_examples == pytest.approx(paired.of_examples)
        assert found.seeds == (0, 1, 2, 10, 11, 12)
        assert difference(self.ONE, {10: self.OTHER[0]}).has_training_noise is False

    def test_a_value_for_each_seed_goes_by_students_t(self):
        found = difference({0: 1.0, 1: 3.0, 2: 2.0, 9: 8.0}, {0: 0.5, 1: 1.5, 2: 1.0})
        assert found.estimate == pytest.approx(1)
        assert found.half_width == pytest.approx(4.3026527 * 0.5 / math.sqrt(3))
        assert (found.examples, found.degrees, found.has_training_noise) == (0, 2, True)

    def test_values_without_a_common_seed_go_by_welch(self):
        found = difference({0: 1.0, 1: 3.0, 2: 2.0}, {5: 0.5, 6: 1.5})
        assert found.estimate == pytest.approx(1)
        assert found.standard_error**2 == pytest.approx(1 / 3 + 0.5 / 2)
        assert found.degrees == pytest.approx((1 / 3 + 1 / 4) ** 2 / (1 / 9 / 2 + 1 / 16))


class TestNotComparable:
    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            ({}, "no run"),
            (runs(NLL[:4], tokens=TOKENS[:4]), "other held-out data: 5 and 4 examples"),
            (runs(NLL, tokens=TOKENS + 1), "differ in length"),
            (runs(NLL, tokens=TOKENS[::-1]), "differ in length"),
            (runs(np.where(NLL > 30, np.nan, NLL)), "not finite"),
            (runs(np.where(NLL > 30, np.inf, NLL)), "not finite"),
            (runs(NLL[:4]), r"shapes \(4,\) and \(5,\)"),
            (runs(NLL, tokens=-TOKENS), "no token"),
            (runs(NLL, tokens=TOKENS * [1, 1, 0, 1, 1]), "no token"),
            ({0: 1.5}, "others have none"),
        ],
    )
    def test_other_data_and_other_numbers(self, other, reason):
        with pytest.raises(NotComparable, match=reason):
            difference(runs(NLL), other)

    @pytest.mark.parametrize(("tokens", "count"), [([4.0], 1), ([], 0), ([0.0, 0.0, 0.0], 0), ([0.0, 3.0], 1)], ids=str)
    def test_fewer_than_two_examples(self, tokens, count):
        trial = runs(np.zeros(len(tokens)), tokens=np.array(tokens))
        with pytest.raises(NotComparable, match=f"At least 2 held-out examples are needed to compare, but .* {count}"):
            difference(trial, trial)

    @pytest.mark.parametrize(
        ("one", "other", "reason"),
        [
            ({0: 1.0}, {0: 2.0}, "At least 2 seeds"),
            ({0: 1.0, 1: 2.0}, {1: 2.0}, "At least 2 seeds"),
            ({0: 1.0, 1: math.nan}, {0: 2.0, 1: 2.0}, "not finite"),
        ],
    )
    def test_values_that_do_not_do(self, one, other, reason):
        with pytest.raises(NotComparable, match=reason):
            difference(one, other)
