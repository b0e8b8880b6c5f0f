"""Digests of files: right whatever was done to the file, and computed once where nothing was."""

import hashlib
import os
import shutil
import time

import pytest

from lowrung.store import fingerprints


@pytest.fixture
def file(tmp_path):
    """A file that has lain there for a minute."""
    path = tmp_path / "data" / "rows.jsonl"
    path.parent.mkdir()
    path.write_text("before")
    return path


@pytest.fixture
def records(tmp_path):
    return tmp_path / "records"


@pytest.fixture
def later(monkeypatch):
    """A clock that is a minute ahead of the disk's, so that files are old."""
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 60 * 10**9)


def digest(file, records):
    (found,) = fingerprints.sha256([file], records).values()
    return found


def right(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def without_reading(monkeypatch):
    def read(*_):
        raise AssertionError("it was read")

    monkeypatch.setattr(hashlib, "file_digest", read)


def test_a_file_that_was_not_touched_is_read_once(file, records, later, monkeypatch):
    first = digest(file, records)
    without_reading(monkeypatch)
    assert digest(file, records) == first == right(file)


def test_a_young_file_is_read_again(file, records, monkeypatch):
    digest(file, records)
    without_reading(monkeypatch)
    with pytest.raises(AssertionError, match="it was read"):
        digest(file, records)


def edit(file):
    file.write_text("behind")


def edit_and_put_the_time_back(file):
    state = file.stat()
    file.write_text("behind")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def replace(file):
    other = file.with_name("other")
    other.write_text("behind")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    os.replace(other, file)


def link(file):
    other = file.with_name("other")
    other.write_text("behind")
    file.unlink()
    os.link(other, file)


def point_elsewhere(file):
    other = file.with_name("other")
    other.write_text("behind")
    file.unlink()
    file.symlink_to(other)


def move_its_folder(file):
    aside = file.parent.with_name("aside")
    file.parent.rename(aside)
    file.parent.mkdir()
    shutil.copy2(aside / file.name, file)
    file.write_text("behind")


def copy(file):
    shutil.copy2(file, file.with_name("copy"))
    os.replace(file.with_name("copy"), file)


@pytest.mark.parametrize(
    "change",
    [edit, edit_and_put_the_time_back, replace, link, point_elsewhere, move_its_folder, copy, lambda file: None],
)
def test_it_is_that_of_the_content(file, records, later, change):
    digest(file, records)
    change(file)
    assert digest(file, records) == right(file)


def test_a_file_of_the_future_is_read_each_time(file, records, later):
    """A clock that was set back, or that of another machine's disk."""
    os.utime(file, ns=(0, time.time_ns() + 10**15))
    digest(file, records)
    state = file.stat()
    file.write_text("behind")
    os.utime(file, ns=(0, state.st_mtime_ns))
    assert digest(file, records) == right(file)


def test_files_of_several_folders_come_with_their_paths(file, records, later):
    other = file.parents[1] / "more" / file.name
    other.parent.mkdir()
    other.write_text("other")
    assert fingerprints.sha256([file, other], records) == {str(file): right(file), str(other): right(other)}
    assert len(list(records.iterdir())) == 2


def test_a_pipe_is_refused_and_not_read(file):
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(OSError, match="not a regular file"):
        digest(file, None)


def test_a_file_that_is_gone_is_an_error_and_a_record_that_cannot_be_written_is_none(file, tmp_path):
    (tmp_path / "no folder").write_text("")
    assert digest(file, tmp_path / "no folder" / "records") == right(file)
    with pytest.raises(FileNotFoundError):
        digest(file.with_name("gone"), None)
