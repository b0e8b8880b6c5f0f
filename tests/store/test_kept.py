import numpy as np
import pytest

from lowrung.store import kept


def counting(calls: list[int]):
    def compute():
        calls.append(1)
        return {"nll": np.arange(5.0), "right": np.array([1, 0, 2])}

    return compute


@pytest.fixture
def path(tmp_path):
    return tmp_path / "base" / "scores.arrays"


def test_computes_once(path):
    calls: list[int] = []
    first, second = (kept.arrays(path, counting(calls)) for _ in range(2))
    assert len(calls) == 1
    assert {name: each.tolist() for name, each in first.items()} == {
        name: each.tolist() for name, each in second.items()
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-10],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"other",
        lambda content: content.replace(np.float64(3).tobytes(), np.float64(4).tobytes()),
    ],
    ids=["its end is lost", "half", "empty", "another file", "a number differs"],
)
def test_what_was_damaged_is_computed_again(path, damage):
    calls: list[int] = []
    kept.arrays(path, counting(calls))
    path.write_bytes(damage(path.read_bytes()))
    again = kept.arrays(path, counting(calls))
    assert len(calls) == 2
    assert again["nll"].tolist() == [0, 1, 2, 3, 4]
    kept.arrays(path, counting(calls))
    assert len(calls) == 2


def test_a_bit_that_differs_anywhere_is_seen(path):
    calls: list[int] = []
    kept.arrays(path, counting(calls))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert kept.read(path) is None
    path.write_bytes(whole)
    kept.arrays(path, counting(calls))
    assert len(calls) == 1


def test_without_room_nothing_is_kept_and_nothing_fails(path):
    path.parent.write_text("a file where the folder would be")
    assert kept.arrays(path, counting([]))["nll"].tolist() == [0, 1, 2, 3, 4]


def test_an_array_of_objects_is_notread(path):
    path.parent.mkdir()
    with path.open("wb") as file:
        np.savez(file, nll=np.array([{"code": 1}], dtype=object))
    calls: list[int] = []
    kept.arrays(path, counting(calls))
    assert len(calls) == 1
