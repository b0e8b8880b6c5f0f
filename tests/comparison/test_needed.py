import dataclasses
import math

import pytest

from lowrung.comparison.needed import examples_for, is_equal_within, power, seeds_for, with_more
from lowrung.comparison.paired import Difference

ONE_SEED = Difference(0.001, 0.0022**2, 0.0, 31, 31, 32, (0,), has_training_noise=False)
SEEDS = Difference(0.001, 0.0022**2, 0.004**2, 31, 2.5, 32, (0, 1, 2), has_training_noise=True)
VALUES = Difference(0.001, 0.0, 0.004**2, 2, 2, 0, (0, 1, 2), has_training_noise=True)
SAME = Difference(0.0, 0.0, 0.0, 31, 31, 32, (0,), has_training_noise=False)


class TestNeeded:
    @pytest.mark.parametrize("half_width", [0.002, 0.0044, 0.01, 0.0001])
    def test_the_least_number_of_examples_that_does(self, half_width):
        examples = examples_for(ONE_SEED, half_width)
        assert examples is not None
        assert with_more(ONE_SEED, examples=examples).half_width <= half_width
        if examples > 2:
            assert with_more(ONE_SEED, examples=examples - 1).half_width > half_width

    def test_it_grows_with_the_square(self):
        """(1.96 * 0.0022 * sqrt(32) / 0.0001)^2."""
        assert examples_for(ONE_SEED, 0.0001) == pytest.approx((1.96 * 0.0022 / 0.0001) ** 2 * 32, rel=1e-3)

    def test_examples_do_nothing_against_training_noise(self):
        assert examples_for(SEEDS, 0.005) is None
        assert examples_for(VALUES, 1.0) is None

    @pytest.mark.parametrize("found", [SEEDS, VALUES])
    def test_the_least_number_of_seeds_that_does(self, found):
        seeds = seeds_for(found, 0.006)
        assert seeds is not None
        assert with_more(found, seeds=seeds).half_width <= 0.006 < with_more(found, seeds=seeds - 1).half_width

    def test_seeds_do_nothing_against_examples_and_one_does_not_show_noise(self):
        assert seeds_for(SEEDS, 0.004) is None
        assert seeds_for(ONE_SEED, 1.0) is None

    @pytest.mark.parametrize("found", [ONE_SEED, SEEDS, VALUES, SAME])
    def test_as_many_as_there_are_change_nothing(self, found):
        same = with_more(found, seeds=len(found.seeds))
        assert (same.half_width, same.degrees) == pytest.approx((found.half_width, found.degrees))


class TestPower:
    @pytest.mark.parametrize(
        ("n", "effect", "expected"), [(34, 0.5, 0.808), (15, 0.8, 0.821), (199, 0.2, 0.803), (10, 0.0, 0.05)]
    )
    def test_as_in_the_tables_of_the_paired_t_test(self, n, effect, expected):
        """Cohen's d with n pairs; the least n for 80 of 100 are 34, 15 and 199."""
        found = Difference(0, 1 / n, 0, n - 1, n - 1, n, (0,), has_training_noise=False)
        assert power(found, effect) == pytest.approx(expected, abs=0.002)
        assert power(found, -effect) == pytest.approx(power(found, effect))

    def test_without_an_error_any_difference_is_found(self):
        assert (power(SAME, 0.01), power(SAME, 0.0)) == (1, 0)


class TestEquality:
    def test_the_interval_at_90_lies_within_the_margin(self):
        reach = 0.001 + 1.695519 * 0.0022
        assert is_equal_within(ONE_SEED, reach + 1e-6)
        assert not is_equal_within(ONE_SEED, reach - 1e-6)
        assert not is_equal_within(dataclasses.replace(ONE_SEED, estimate=-0.02), 0.01)

    def test_no_difference_found_is_not_equality(self):
        wide = dataclasses.replace(ONE_SEED, of_examples=1.0)
        assert wide.p_value > 0.9
        assert not is_equal_within(wide, 0.01)

    def test_the_same_run_is_equal_within_anything(self):
        assert is_equal_within(SAME, math.ulp(0.0))
