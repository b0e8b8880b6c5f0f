import json

import pytest

from lowrung.store import sealed

FIELDS = {"a": [1, 2], "größe": None, "deep": {"x": 0.1}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records" / "one.json"


def test_what_was_kept_is_read(path):
    assert sealed.read(path) is None
    sealed.keep(path, FIELDS)
    assert sealed.read(path) == FIELDS


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-10],
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1]",
        lambda text: "[" * 100_000,
        lambda text: text.replace("0.1", "0.2"),
        lambda text: json.dumps(json.loads(text)["fields"]),
    ],
    ids=["its end is lost", "half", "empty", "a list", "nested without end", "edited by hand", "without its seal"],
)
def test_what_was_damaged_does_not_count(path, damage):
    sealed.keep(path, FIELDS)
    path.write_text(damage(path.read_text()))
    assert sealed.read(path) is None


def test_numbers_that_are_keys_are_texts_and_sort_otherwise(path):
    sealed.keep(path, {"ranks": {4: "a", 16: "b"}})
    assert sealed.read(path) == {"ranks": {"4": "a", "16": "b"}}


def test_what_another_version_wrote_does_not_count(path, monkeypatch):
    with monkeypatch.context() as other:
        other.setattr(sealed, "__version__", "0.0.1")
        sealed.keep(path, FIELDS)
    assert sealed.read(path) is None


def test_without_room_nothing_is_kept_and_nothing_fails(path):
    path.parent.write_text("a file where the folder would be")
    sealed.keep(path, FIELDS)
    assert sealed.read(path) is None
