import numpy as np
import pytest

from lowrung.comparison.paired import NotComparable, Sums, difference

TOKENS = np.array([4.0, 10, 1, 7, 20])
NLL = np.array([8.0, 21, 2, 9, 33])


def runs(*numerators, tokens=TOKENS, unit=0.0):
    return {seed: Sums(np.asarray(one, float), tokens, unit) for seed, one in enumerate(numerators)}


def test_one_seed_by_hand():
    """Cochran's ratio: d = 1, 0, 2, -1, 3 of t = 1 each has mean 1, and sum e^2 = 10."""
    ones = np.ones(5)
    found = difference(runs([2, 1, 3, 0, 4], tokens=ones), runs(ones, tokens=ones))
    assert found.estimate == pytest.approx(1)
    assert found.standard_error == pytest.approx(np.sqrt(10 / 4 / 5))
    assert found.degrees == 4
    assert found.half_width == pytest.approx(2.7764451 * np.sqrt(0.5))
    assert (found.examples, found.seeds, found.has_training_noise) == (5, (0,), False)


def test_the_same_run_ties_exactly():
    found = difference(runs(NLL), runs(NLL))
    assert (found.estimate, found.half_width, found.p_value) == (0, 0, 1)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({}, "no run"),
        (runs(NLL[:4], tokens=TOKENS[:4]), "other held-out data: 5 and 4 examples"),
        (runs(NLL, tokens=TOKENS + 1), "differ in length"),
        (runs(np.where(NLL > 30, np.nan, NLL)), "not finite"),
        ({0: 1.5}, "others have none"),
    ],
)
def test_what_cannot_be_compared(other, reason):
    with pytest.raises(NotComparable, match=reason):
        difference(runs(NLL), other)
