import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from lowrung.errors import StoreError
from lowrung.store import atomic, records
from lowrung.store.layout import ROOT
from tests.terminal import PATIENCE


class Unwritable:
    """Stands where a record should be, and breaks while it is written."""


class TestWriting:
    def test_makes_folders_and_replaces(self, tmp_path):
        path = tmp_path / "a b" / "c" / "file.txt"
        for text in ("old", "new ✓"):
            atomic.write_text(path, text)
            assert path.read_text(encoding="utf-8") == text
        assert list(path.parent.iterdir()) == [path]

    def test_others_may_read_what_the_user_lets_them(self, tmp_path):
        before = os.umask(0o027)
        try:
            atomic.write_text(tmp_path / "file.txt", "text")
        finally:
            os.umask(before)
        assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640

    def test_a_write_that_breaks_leaves_the_old_file_alone(self, tmp_path, monkeypatch):
        path = tmp_path / "file.txt"
        atomic.write_text(path, "old")

        def fail(handle: int) -> None:
            assert path.read_text() == "old"  # a reader in this moment sees the old file
            raise OSError("disk full")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            atomic.write_text(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_the_file_is_on_disk_before_it_is_swapped_in(self, tmp_path, monkeypatch):
        events: list[str] = []

        def noted(name: str, function: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: Any) -> None:
                events.append(name)
                function(*arguments)

            return call

        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
        atomic.write_text(tmp_path / "file.txt", "text")
        assert events == ["fsync", "replace"]

    @pytest.mark.parametrize("record", [{"loss": float("nan")}, {"loss": float("inf")}, {"what": Unwritable()}])
    def test_what_json_has_not_is_refused_and_nothing_written(self, tmp_path, record):
        with pytest.raises((ValueError, TypeError)):
            atomic.write_json(tmp_path / "file.json", record)
        assert list(tmp_path.iterdir()) == []

    def test_json_round_trip(self, tmp_path):
        record = {"loss": 0.1, "name": "é", "list": [1, None, True], "small": 1e-300}
        atomic.write_json(tmp_path / "file.json", record)
        assert records.read(tmp_path / "file.json") == record


class TestMakeFolder:
    def test_it_is_filled_once(self, tmp_path):
        atomic.make_folder_once(tmp_path / "made", lambda aside: (aside / "file").touch())
        atomic.make_folder_once(tmp_path / "made", lambda aside: (aside / "other").touch())
        assert [path.name for path in (tmp_path / "made").iterdir()] == ["file"]

    def test_what_breaks_leaves_nothing(self, tmp_path):
        def full_disk(aside: Path) -> None:
            (aside / "half").touch()
            raise OSError("No space left on device")

        with pytest.raises(OSError, match="No space left"):
            atomic.make_folder(tmp_path / "made", full_disk)
        assert not list(tmp_path.iterdir())

    def test_an_empty_folder_is_filled_and_stays_when_that_fails(self, tmp_path):
        (tmp_path / "made").mkdir()
        with pytest.raises(ZeroDivisionError):
            atomic.make_folder(tmp_path / "made", lambda aside: 1 // 0)
        assert [path.name for path in tmp_path.iterdir()] == ["made"]
        atomic.make_folder(tmp_path / "made", lambda aside: (aside / "file").touch())
        assert (tmp_path / "made" / "file").is_file()

    def test_what_a_killed_process_left_aside_goes(self, tmp_path):
        def killed(aside: Path) -> None:
            (aside / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)

        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=atomic.make_folder, args=(tmp_path / "made", killed))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        atomic.make_folder(tmp_path / "made", lambda aside: (aside / "whole").touch())
        assert {path.name for path in tmp_path.rglob("*")} == {"made", "whole"}


def test_what_killed_writers_left_aside_goes_and_nothing_else(tmp_path):
    atomic.write_text(tmp_path / "outcome.json", "{}")
    for name in (".outcome.json.12-140", ".lock"):
        (tmp_path / name).touch()
    atomic.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"outcome.json", ".lock"}


HOLDER = """
import sys
from pathlib import Path
from lowrung.store import atomic, records
with atomic.lock(Path(sys.argv[1]), wait="wait" in sys.argv):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Another process that holds the lock until its input ends."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", HOLDER, str(path), *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


class TestLock:
    def test_another_process_is_refused_until_the_end(self, tmp_path):
        path = tmp_path / "run" / ".lock"
        with atomic.lock(path):
            refused = holder(path)
            _, errors = refused.communicate(timeout=PATIENCE)
            assert refused.returncode == 1
            assert f"Another process works in {path.parent}" in errors
        with holder(path) as allowed:
            assert line(allowed.stdout) == "held\n"

    def test_the_system_frees_the_lock_of_a_killed_process(self, tmp_path):
        path = tmp_path / ".lock"
        with holder(path) as other:
            assert line(other.stdout) == "held\n"
            with pytest.raises(StoreError, match="Another process works in"), atomic.lock(path):
                pass
            other.kill()
            other.wait(PATIENCE)
            with atomic.lock(path):
                pass

    def test_who_waits_gets_it_after_the_holder(self, tmp_path):
        path = tmp_path / ".lock"
        with holder(path) as first:
            assert line(first.stdout) == "held\n"
            with holder(path, "wait") as second:
                first.communicate(timeout=PATIENCE)
                assert line(second.stdout) == "held\n"

    def test_it_is_not_reentrant(self, tmp_path):
        with atomic.lock(tmp_path / ".lock"), pytest.raises(StoreError), atomic.lock(tmp_path / ".lock"):
            pass

    def test_an_error_inside_frees_it(self, tmp_path):
        with pytest.raises(ZeroDivisionError), atomic.lock(tmp_path / ".lock"):
            raise ZeroDivisionError
        with atomic.lock(tmp_path / ".lock"):
            pass
