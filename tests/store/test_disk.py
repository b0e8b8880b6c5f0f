import errno
import os
import shutil
import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest

from lowrung.errors import StoreError, UsageError
from lowrung.store import disk


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(no_space(), id="Python, datasets"),
        pytest.param(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), id="a quota"),
        pytest.param(OSError(69, "Disc quota exceeded"), id="a quota on macOS"),
        # what these libraries say on a full tmpfs
        pytest.param(
            Exception("Error while serializing: I/O error: No space left on device (os error 28)"), id="safetensors"
        ),
        pytest.param(sqlite3.OperationalError("database or disk is full"), id="SQLite"),
    ],
)
def test_a_full_disk_is_known_by_what_libraries_say(error: Exception, tmp_path: Path) -> None:
    assert disk.is_full(error, tmp_path)
    wrapped = RuntimeError("the commit failed")
    wrapped.__cause__ = error
    assert disk.is_full(wrapped, tmp_path)
    in_words = disk.in_words(error)
    assert isinstance(in_words, StoreError)
    assert str(in_words).endswith("Free some space; the same command then goes on.")


def test_python_says_so_on_a_full_device(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, Path("/dev/full").open("w") as file:
        file.write("x")
    assert disk.is_full(caught.value, tmp_path)


@pytest.mark.parametrize(("free", "is_full"), [(0, True), (1 << 30, False)])
def test_torch_gives_no_reason_so_the_disk_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, is_full: bool
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 0, free))
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    error.__context__ = RuntimeError("basic_ios::clear: iostream error")
    assert disk.is_full(error, tmp_path) is is_full


def test_other_errors_are_not_ours(tmp_path: Path) -> None:
    assert not disk.is_full(ValueError("too large"), tmp_path)
    assert disk.in_words(ValueError("too large")) is None
    assert disk.in_words(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


def test_a_folder_that_can_be_made_is_no_problem(tmp_path: Path) -> None:
    assert disk.unwritable("store", tmp_path / "not" / "there") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_file_in_the_place_of_a_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    assert disk.unwritable("store", tmp_path / "file" / below) == [
        f"store must be where files can be written, but {tmp_path / 'file'} is not a folder."
        " Correct that, or name another folder."
    ]


def test_a_folder_that_may_not_be_written() -> None:
    (problem,) = disk.unwritable("store", Path("/proc/runs"))  # not by root either
    assert problem.startswith("store must be where files can be written, but /proc cannot be written (")


def test_a_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        (tmp_path / "file" / "x").mkdir()
    in_words = disk.in_words(caught.value)
    assert isinstance(in_words, UsageError)
    assert str(in_words).startswith(f"{tmp_path / 'file' / 'x'} cannot be used: Not a directory. hydra.run.dir")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("ü" * 200, "a file can have, of 255 bytes or so, but one that begins with 'üüü"),
        ("ü" * 200, "has 400 bytes. Give a shorter one."),
        ("a/" * 3000, "the system takes, of 4,096 bytes or so, but one that begins with 'a/a/"),
        ("a/" * 3000, "has 5,999 bytes. Give a shorter one."),
    ],
)
def test_what_is_too_long_is_said_by_its_bytes(path: str, said: str) -> None:
    with pytest.raises(OSError, match="name too long") as caught:
        Path(path).touch()
    in_words = disk.in_words(caught.value)
    assert isinstance(in_words, UsageError)
    assert said in str(in_words)
