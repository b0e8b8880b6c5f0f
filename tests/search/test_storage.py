"""A database that another process has locked, or that cannot be written: a study waits, or says why."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.exceptions import UpdateFinishedTrialError
from sqlalchemy.exc import OperationalError

from lowrung.errors import LowrungError, StoreError, UsageError
from lowrung.search import storage
from lowrung.search.storage import Storage
from lowrung.store.outcome import Outcome, Status
from tests.search.conftest import Opener, waits_by
from tests.terminal import PATIENCE

LOCKS = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""


class Locker:
    """Another process that has locked a database."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def release(self, *_: object) -> None:
        """Ends it."""
        self._process.communicate("\n", timeout=PATIENCE)


@contextmanager
def locked(database: Path) -> Iterator[Locker]:
    command = [sys.executable, "-c", LOCKS, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        try:
            yield Locker(process)
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SQLITE_SECONDS", 0.0)


def complete() -> Outcome:
    return Outcome(Status.COMPLETE, {"eval/loss": 1.0})


@pytest.mark.slow
def test_a_locked_study_is_waited_for(
    opened: Opener, database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = opened()
    for step in (
        lambda: study.tell(study.ask({"lora.r": 4}), complete()),
        lambda: study.note("tracked", "run"),
        lambda: opened().interrupted(),
    ):
        with locked(database) as other:
            waits_by(monkeypatch, "lowrung.search.storage", other.release)  # it has found the database locked by then
            step()
        said = f"note: {database} does not answer (database is locked); waiting for it\n"
        assert capsys.readouterr().out == said
    (trial,) = opened().trials
    assert trial.values == [1.0]


def test_one_that_stays_locked_is_one_sentence_and_goes_on_later(
    opened: Opener, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened()
    trial = study.ask({"lora.r": 4})
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0.0)
    with locked(database):
        for _ in range(2):  # the second does not wait again
            with pytest.raises(
                StoreError, match=r"must answer, but .*study\.db has not for 0 s \(database is locked\)"
            ):
                study.tell(trial, complete())
            waits_by(monkeypatch, "lowrung.search.storage", pytest.fail)
    again = opened()
    (adopted,) = again.interrupted()
    again.tell(adopted, complete())
    assert again.trials[0].values == [1.0]


def fails(message: str) -> OperationalError:
    return OperationalError("UPDATE", {}, sqlite3.OperationalError(message))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "attempt to write a readonly database",
            r"must take records, but .*study\.db does not \(attempt to write a read",
        ),
        ("no such table: trials", r"must take records, but .* \(no such table: trials\)"),
        ("database or disk is full", "There is no space left on a disk"),
    ],
)
def test_what_no_waiting_helps_against_is_said_at_once(
    database: Path, monkeypatch: pytest.MonkeyPatch, message: str, said: str
) -> None:
    opened = Storage(f"sqlite:///{database}")
    waits_by(monkeypatch, "lowrung.search.storage", pytest.fail)

    def call() -> None:
        raise fails(message)

    with pytest.raises(StoreError, match=said) as caught:
        opened.call(call)
    assert str(caught.value).count("\n") == 0


def test_a_server_that_is_away_for_a_while_is_waited_for(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Storage(f"sqlite:///{database}")
    waits_by(monkeypatch, "lowrung.search.storage", lambda seconds: None)
    ends = [fails("server closed the connection unexpectedly"), fails("could not connect to server")]

    def call() -> str:
        if ends:
            raise ends.pop()
        return "answered"

    assert opened.call(call) == "answered"


def test_a_record_that_was_written_before_the_answer_was_lost_is_not_written_again(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Storage(f"sqlite:///{database}")
    waits_by(monkeypatch, "lowrung.search.storage", lambda seconds: None)
    ends = [UpdateFinishedTrialError(), fails("server closed the connection unexpectedly")]

    def call() -> bool:
        raise ends.pop()

    assert opened.call(call) is True
    ends = [UpdateFinishedTrialError()]
    with pytest.raises(UpdateFinishedTrialError):
        opened.call(call)


@pytest.mark.parametrize("content", [b"no database at all" * 100, None])
def test_a_file_that_is_no_database_does_not_open(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(content) if content else path.mkdir()
    with pytest.raises(UsageError, match=r"must be a database that opens, but .*study\.db does not") as caught:
        Storage(f"sqlite:///{path}")
    assert isinstance(caught.value, LowrungError)


def test_a_file_in_a_folder_of_any_name(tmp_path: Path) -> None:
    file = tmp_path / "{0} {x} 100%d" / "study.db"
    Storage(f"sqlite:///{file}")
    assert file.is_file()
