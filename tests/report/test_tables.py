import pytest

from lowrung.report.tables import counted, number


@pytest.mark.parametrize(
    ("value", "text"), [(19593064, "19593064"), (19593064.0, "19593064"), (2.9219734, "2.92197"), (1e-11, "1e-11")]
)
def test_a_count_is_whole_and_a_metric_has_six_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_one_is_not_several() -> None:
    assert [counted(count, "trial") for count in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
