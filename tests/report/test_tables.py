import pytest

from lowrung.report.tables import counted, number, table


@pytest.mark.parametrize(
    ("value", "text"), [(19593064, "19593064"), (19593064.0, "19593064"), (2.9219734, "2.92197"), (1e-11, "1e-11")]
)
def test_a_count_is_whole_and_a_metric_has_six_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_one_is_not_several() -> None:
    assert [counted(count, "trial") for count in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]


HEAD = ["trial", "modules", "eval loss", ""]
ROWS = [["0", "[q_proj, v_proj]", "3.919 → 2.785", ""], ["11", "[q_proj]", "3.919 → 2.789", "reused"]]


def shown(width: int | None) -> str:
    return table(HEAD, ROWS, left=("eval loss", ""), width=width)


WIDE = """\
trial           modules  eval loss
    0  [q_proj, v_proj]  3.919 → 2.785
   11          [q_proj]  3.919 → 2.789  reused"""

FOLDED = """\
trial   modules  eval loss
    0  [q_proj,  3.919 →
        v_proj]  2.785
   11  [q_proj]  3.919 →    reused
                 2.789"""

BLOCKS = """\
trial      0
modules    [q_proj,
           v_proj]
eval loss  3.919 →
           2.785

trial      11
modules    [q_proj]
eval loss  3.919 →
           2.789
           reused"""


@pytest.mark.parametrize(("width", "text"), [(None, WIDE), (46, WIDE), (34, FOLDED), (20, BLOCKS)])
def test_where_room_is_short_cells_are_folded_and_then_rows_are_blocks(width: int | None, text: str) -> None:
    assert shown(width) == text


@pytest.mark.parametrize("width", range(1, 60))
def test_no_word_is_lost_or_broken_at_any_width(width: int) -> None:
    words = [word for row in ROWS for cell in row for word in cell.split()]
    found = shown(width).split()
    assert all(found.count(word) >= words.count(word) for word in words)
    assert max(map(len, shown(width).splitlines())) <= max(width, 11 + len("[q_proj]"))


def test_a_table_without_rows_is_its_head_or_nothing() -> None:
    assert table(["a", "b"], [], left=(), width=20) == "a  b"
    assert table(["a", "b"], [], left=(), width=2) == ""


def test_a_word_that_is_wider_than_the_screen_stays_whole() -> None:
    path = "/home/you/lowrung/multirun/docstrings-54fe22"
    assert path in table(["results", "n"], [[path, "1"]], left=("results",), width=20).split()


def test_the_screen_s_width_counts_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "34")
    assert shown(None) == FOLDED
