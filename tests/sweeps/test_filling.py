"""How runs fill the slots."""

import pytest

from lowrung.sweeps import filling


@pytest.mark.parametrize(
    ("seconds", "slots", "end"),
    [
        ([], 2, 0),
        ([5], 8, 5),
        ([1, 1, 1], 2, 2),
        ([4, 1, 1, 1], 2, 4),
        ([1, 1, 4], 2, 5),
        ([3, 3, 3, 3], 4, 3),
    ],
)
def test_a_run_starts_as_soon_as_a_slot_is_free(seconds, slots, end):
    assert filling.end_of(seconds, slots) == end


def test_where_nothing_is_left_there_is_no_end():
    found = filling.time([], [], 2, "a test", at_most=False)
    assert found is not None
    assert (found.seconds, found.ends, found.idle) == (0, None, 0)
    assert filling.time([filling.Left(None, 1.0)], [], 2, "a test", at_most=False) is None
