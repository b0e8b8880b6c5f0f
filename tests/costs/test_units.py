"""Bytes and seconds as text."""

import math

import pytest

from lowrung.costs import units


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("80GB", 80e9),
        ("80 gb", 80e9),
        ("80GiB", 80 * 2**30),
        ("1.5TB", 1.5e12),
        ("512MiB", 2**29),
        ("7kB", 7000),
        (4096, 4096),
        ("80XB", None),
        ("80", None),
        ("GB", None),
        ("-1GB", None),
        ("0GB", None),
        (True, None),
        (math.inf, None),
        (math.nan, None),
        (None, None),
        ([80], None),
    ],
)
def test_an_amount_is_read(text, count):
    assert units.amount(text) == count


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6e3, "1.00 MB"),
        (2.314e9, "2.31 GB"),
        (9.996e9, "10.0 GB"),
        (99.96e9, "100 GB"),
        (999.4e9, "999 GB"),
        (1.5e12, "1.50 TB"),
        (1.5e15, "1,500 TB"),
    ],
)
def test_a_size_has_three_digits(count, text):
    assert units.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3599, "1 h"),
        (7800, "2 h 10 min"),
        (86_400, "1 d"),
        (86_399, "1 d"),
        (273_600, "3 d 4 h"),
        (86_400 * 2 - 1, "2 d"),
    ],
)
def test_a_duration_is_in_its_largest_units(seconds, text):
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.1234, "0.123 s"), (59.96, "1 min"), (250.4, "4 min 10 s"), (3599.6, "1 h"), (12000, "3 h 20 min")],
)
def test_measured_seconds_are_finer(seconds, text):
    assert units.measured(seconds) == text
