import dataclasses
from typing import Any

import numpy as np
import pytest

from lowrung.comparison.best import against_best
from lowrung.comparison.paired import Sums, difference

TOKENS = np.full(40, 16.0)


def trial(rng, mean, *, seeds=1, noise=0.0, example=0.2):
    """Runs of a trial whose loss is this mean, and changes by so much from seed to seed."""
    return {
        seed: Sums(TOKENS * (mean + noise * rng.standard_normal() + example * rng.standard_normal(40)), TOKENS)
        for seed in range(seeds)
    }


def differences(trials) -> list[Any]:
    """Of all but the first, which is the best."""
    return [one.difference for one in against_best(trials, 0)[1:]]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class TestOneSeed:
    def test_each_trial_against_the_best(self, rng):
        trials = [trial(rng, 3.5), trial(rng, 3.0), trial(rng, 3.005), trial(rng, 2.99)]
        said = against_best(trials, 1)
        assert [one.is_tie for one in said] == [False, True, True, True]
        assert said[0].difference == difference(trials[0], trials[1])
        assert said[1].difference is None
        assert said[1].p_value == 1

    def test_p_values_are_corrected_for_the_pairs_that_are_left(self, rng):
        """Four trials have 6 pairs, three have 3, and two have 1; no p-value is below one before it."""
        trials = [trial(rng, 3.0), trial(rng, 3.18), trial(rng, 3.09), trial(rng, 3.02)]
        said = against_best(trials, 0)
        alone = [difference(one, trials[0]).p_value for one in trials[1:]]
        assert alone == sorted(alone)
        first, second, third = 6 * alone[0], 3 * alone[1], alone[2]
        expected = [first, max(first, second), max(first, second, third)]
        assert [one.p_value for one in said[1:]] == pytest.approx(np.minimum(1, expected))

    def test_the_interval_is_at_the_level(self, rng):
        trials = [trial(rng, 3.0), trial(rng, 3.1)]
        (_, found) = against_best(trials, 0, level=0.5)
        assert found.difference == difference(trials[1], trials[0], level=0.5)
        assert differences(trials)[0].half_width > 2 * found.difference.half_width

    def test_the_best_alone(self, rng):
        (only,) = against_best([trial(rng, 3.0)], 0)
        assert (only.difference, only.is_tie, only.reason) == (None, True, "")

    def test_two_trials_that_are_the_same_run(self, rng):
        one = trial(rng, 3.0)
        assert [judgement.is_tie for judgement in against_best([one, one, one], 1)] == [True] * 3

    def test_what_cannot_be_compared_is_said_and_costs_the_others_nothing(self, rng):
        good = [trial(rng, 3.0), trial(rng, 3.1)]
        other = {0: Sums(np.ones(7), np.ones(7))}
        nan = {0: dataclasses.replace(good[0][0], numerators=np.full(40, np.nan))}
        said = against_best([*good, {}, other, nan], 0)
        assert [one.reason for one in said[:2]] == ["", ""]
        assert "no run" in said[2].reason
        assert "40 and 7 examples" in said[3].reason or "7 and 40 examples" in said[3].reason
        assert "not finite" in said[4].reason
        assert [one.is_tie for one in said[2:]] == [False] * 3
        assert said[1].p_value == against_best(good, 0)[1].p_value


class TestTrainingNoise:
    def test_two_trials_have_only_their_own(self, rng):
        trials = [trial(rng, 3.0, seeds=3, noise=0.1), trial(rng, 3.1, seeds=3, noise=0.1)]
        (found,), own = differences(trials), difference(trials[1], trials[0])
        assert (found.of_seeds, found.degrees) == pytest.approx((own.of_seeds, own.degrees))

    def test_trials_lend_it_to_each_other(self, rng):
        """Twelve trials with 3 seeds know 0.1 from 22 degrees of freedom, where two know it from 2."""
        trials = [trial(rng, 3.0, seeds=3, noise=0.1, example=0.01) for _ in range(12)]
        found = differences(trials)
        assert np.median([one.of_seeds for one in found]) == pytest.approx(2 * 0.1**2 / 3, rel=0.4)
        assert min(one.degrees for one in found) > 15
        assert difference(trials[1], trials[0]).degrees < 5

    def test_a_noisy_trial_keeps_its_own(self, rng):
        trials = [trial(rng, 3.0, seeds=5, noise=0.01) for _ in range(10)] + [trial(rng, 3.0, seeds=5, noise=1.0)]
        found = differences(trials)
        assert found[-1].of_seeds > 100 * np.median([one.of_seeds for one in found[:-1]])

    def test_it_is_the_best_trial_s_own_where_no_other_was_repeated(self, rng):
        best, once = trial(rng, 3.0, seeds=3, noise=0.1, example=0.01), trial(rng, 3.1, example=0.01)
        found, alone = differences([best, once])[0], difference(once, {0: best[0]})
        assert found.has_training_noise
        assert found.half_width > 4 * alone.half_width
        losses = [np.sum(run.numerators) / np.sum(run.denominators) for run in best.values()]
        assert found.of_seeds == pytest.approx(2 * np.var(losses, ddof=1), rel=0.05)

    def test_a_trial_of_one_seed_is_lent_it(self, rng):
        repeated = [trial(rng, 3.0, seeds=3, noise=0.1, example=0.01) for _ in range(6)]
        once = trial(rng, 3.1, seeds=1, noise=0.1, example=0.01)
        found = differences([*repeated, once])[-1]
        assert found.has_training_noise
        assert found.seeds == (0,)
        assert found.standard_error == pytest.approx(0.1 * np.sqrt(2), rel=0.5)

    def test_values_without_sums(self, rng):
        values = [{seed: mean + 0.01 * rng.standard_normal() for seed in range(3)} for mean in (1, 1.3, 1.001, 1.002)]
        assert [one.is_tie for one in against_best(values, 0)] == [True, False, True, True]
        (_, alone) = against_best([{0: 1.0}, {0: 2.0}], 0)
        assert "At least 2 seeds" in alone.reason

    def test_seeds_that_change_nothing(self, rng):
        same = [dict.fromkeys(range(3), trial(rng, mean)[0]) for mean in (3.0, 2.95, 3.5)]
        assert [one.is_tie for one in against_best(same, 0)] == [True, True, False]
        assert differences(same)[0].of_seeds == pytest.approx(0, abs=1e-20)
