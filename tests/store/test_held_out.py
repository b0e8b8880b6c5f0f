"""What a run scored on each held-out example survives the disk, and nothing else is taken for it."""

import subprocess
import sys

import numpy as np
import pandas
import pytest

from lowrung.errors import StoreError
from lowrung.store.held_out import HeldOut

SCORED = HeldOut(
    data="0123",
    tokens=np.array([3, 1]),
    nll=np.array([0.1 + 0.2, 1e-300]),
    right=np.array([2, 0]),
    answers={"exact_match": np.array([1.0, 0.0]), "tokens": np.array([0.5, 0.5])},
)


def test_it_is_read_as_it_was_written(tmp_path):
    SCORED.write(tmp_path / "held_out.parquet")
    read = HeldOut.read(tmp_path / "held_out.parquet")
    assert read.data == SCORED.data
    for name in ("tokens", "nll", "right"):
        assert getattr(read, name).tolist() == getattr(SCORED, name).tolist()
    assert {name: each.tolist() for name, each in read.answers.items()} == {"exact_match": [1, 0], "tokens": [0.5, 0.5]}


def test_pandas_reads_a_row_for_each_example(tmp_path):
    SCORED.write(tmp_path / "held_out.parquet")
    frame = pandas.read_parquet(tmp_path / "held_out.parquet")
    assert list(frame.columns) == ["example", "tokens", "nll", "right", "eval/exact_match", "eval/tokens"]
    assert frame["example"].tolist() == [0, 1]


def test_reading_it_does_not_import_pandas(tmp_path):
    SCORED.write(tmp_path / "held_out.parquet")
    code = (
        "import pathlib, sys; from lowrung.store.held_out import HeldOut\n"
        "HeldOut.read(pathlib.Path(sys.argv[1])); print('pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "held_out.parquet")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("content", [None, b"", b"PAR1 torn", "another table"])
def test_anything_else_is_refused_by_name(tmp_path, content):
    path = tmp_path / "held_out.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        pandas.DataFrame({"tokens": [1], "nll": [0.5], "right": [1]}).to_parquet(path)
    with pytest.raises(StoreError, match=r"held_out\.parquet"):
        HeldOut.read(path)


def test_a_torn_file_is_refused(tmp_path):
    path = tmp_path / "held_out.parquet"
    SCORED.write(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="must hold a run's scores by example"):
        HeldOut.read(path)
