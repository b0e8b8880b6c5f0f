import os

import pytest

from lowrung.engine import gpus


@pytest.mark.parametrize(
    ("listed", "seen"), [("2,3", "2"), ("GPU-aa,GPU-bb", "GPU-aa"), ("1", "1"), ("", ""), (None, "0")]
)
def test_a_single_run_sees_one(monkeypatch, listed, seen):
    monkeypatch.setattr(gpus, "count", lambda: 4)
    monkeypatch.setenv(gpus.VISIBLE, listed or "")
    if listed is None:
        monkeypatch.delenv(gpus.VISIBLE)
    gpus.see_one()
    assert os.environ[gpus.VISIBLE] == seen
