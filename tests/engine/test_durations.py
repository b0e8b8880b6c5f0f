import pytest

from lowrung.engine import durations


@pytest.mark.parametrize(
    ("value", "seconds", "text"),
    [
        (90, 90, "1m30s"),
        (0.5, 0.5, "0.5s"),
        ("90s", 90, "1m30s"),
        ("30m", 1800, "30m"),
        ("2h", 7200, "2h"),
        ("1h30m", 5400, "1h30m"),
        ("1.5h", 5400, "1h30m"),
        ("1h1m1s", 3661, "1h1m1s"),
    ],
)
def test_a_duration_is_read_and_written(value: object, seconds: float, text: str) -> None:
    assert durations.seconds(value) == seconds
    assert durations.text(seconds) == text
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, float("nan"), float("inf"), "", "0s", "-1s", "30", "m", "1m30", "30m1h", "1h 30m", "2d", [1]],
)
def test_what_is_no_duration_is_none(value: object) -> None:
    assert durations.seconds(value) is None
