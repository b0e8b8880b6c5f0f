"""One coordinator a study, wherever its storage is."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest

from lowrung.errors import StoreError
from lowrung.search import lease
from lowrung.search.lease import Lease, StudyTaken
from lowrung.search.storage import Storage
from lowrung.search.study import Study
from lowrung.store import atomic
from lowrung.store.layout import ROOT
from tests import warm
from tests.search.conftest import Opener, waits_by
from tests.terminal import PATIENCE, environment


class Coordinator:
    """A process's hold on a study: the lock of a folder, and the lease."""

    def __init__(self, database: Path, study_id: int, lock: Path) -> None:
        self.folder = ExitStack()
        self.folder.enter_context(atomic.lock(lock))
        try:
            self.lease = Lease(Storage(f"sqlite:///{database}"), study_id, lock)
        except StoreError:
            self.folder.close()
            raise

    def die(self) -> None:
        """What a kill does: the system frees the lock, and nothing else happens any more."""
        self.lease._has_ended.set()
        self.folder.close()


def _id_of(study: Study, database: Path) -> int:
    """The database's id of a study; a coordinator's own has another."""
    return int(Storage(f"sqlite:///{database}").get_study_id_from_name(study.name))


@pytest.fixture
def start(opened: Opener, database: Path, tmp_path: Path) -> Iterator[Callable[[str], Coordinator]]:
    """Starts a coordinator of one study in a folder of this name."""
    study_id = _id_of(opened(), database)
    started: list[Coordinator] = []

    def coordinator(folder: str) -> Coordinator:
        made = Coordinator(database, study_id, tmp_path / folder / ".lock")
        started.append(made)
        return made

    yield coordinator
    for one in started:
        one.die()


def test_a_second_one_is_refused_until_the_first_has_ended(start, tmp_path):
    first = start("a")
    with pytest.raises(StudyTaken, match=rf"process \d+ on .* \({tmp_path.resolve()}/a\)"):
        start("b")
    first.lease.require()
    first.lease.release()
    start("b").lease.require()


def test_one_that_was_killed_here_is_followed_at_once(start, monkeypatch):
    waits_by(monkeypatch, "lowrung.search.lease", pytest.fail)
    start("a").die()
    start("b").die()
    start("b")  # in the same folder


def test_one_that_was_counted_as_gone_and_wakes_up_does_no_more(start, monkeypatch):
    first = start("a")
    first.die()
    start("b")
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.0)  # it wakes up long after its last beat
    with pytest.raises(StudyTaken, match="Another process has taken over the study: process"):
        first.lease.require()


class TestAnotherMachine:
    @pytest.fixture(autouse=True)
    def machines(self, monkeypatch):
        names = iter("abcd")
        monkeypatch.setattr(lease, "_machine", lambda: next(names))
        monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)

    def test_one_that_lives_is_not_followed(self, start, capsys):
        first = start("a")
        with pytest.raises(StudyTaken):
            start("b")
        assert "waiting 0.08 s to see whether it is alive" in capsys.readouterr().out
        first.lease.require()

    def test_one_whose_record_stays_the_same_is(self, start):
        start("a").die()
        start("b").lease.require()


RACES = """
import sys
from pathlib import Path
from lowrung.search.lease import Lease, StudyTaken
from lowrung.search.storage import Storage
from lowrung.store import atomic

database, study, lock = sys.argv[1:]
with atomic.lock(Path(lock)):
    storage = Storage(f"sqlite:///{database}")
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        Lease(storage, int(study), Path(lock))
        print("taken", flush=True)
    except StudyTaken:
        print("refused", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_of_several_that_race_one_has_the_study(database, opened, tmp_path):
    study_id = _id_of(opened(), database)
    variables = environment(PYTHONPATH=str(ROOT / "src"))
    for was_held in (False, True):  # a record of a killed coordinator is there the second time
        locks = [tmp_path / f"{was_held}{number}" / ".lock" for number in range(4)]
        racing = [
            warm.talk(["-c", RACES, str(database), str(study_id), str(lock)], tmp_path, variables) for lock in locks
        ]
        assert [printed.readline() for _, _, printed in racing] == ["ready\n"] * 4
        for _, typed, _ in racing:
            typed.write("\n")
            typed.flush()
        # One that tests a lock just when another does takes its holder for alive, says so, and waits.
        ends = [next(line for line in printed if not line.startswith("note:")).strip() for _, _, printed in racing]
        assert sorted(ends) == ["refused"] * 3 + ["taken"]
        for one, typed, printed in racing:
            os.kill(one.pid, signal.SIGKILL)
            one.wait(PATIENCE)
            typed.close()
            printed.close()


def test_a_study_has_one_coordinator_and_is_given_up(opened, tmp_path):
    locks = [tmp_path / name for name in "ab"]
    with atomic.lock(locks[0]), atomic.lock(locks[1]):
        study = opened(lock=locks[0])
        with pytest.raises(StudyTaken):
            opened(lock=locks[1])
        trial = study.ask({"lora.r": 4})
        study.close()
        (adopted,) = opened(lock=locks[1]).interrupted()
        assert adopted.number == trial.number


def test_a_study_that_another_process_runs_is_not_deleted(opened, database, tmp_path):
    locks = [tmp_path / name for name in "ab"]
    with atomic.lock(locks[0]), atomic.lock(locks[1]):
        study = opened(lock=locks[0])
        with pytest.raises(StudyTaken):
            Study.delete(study.name, f"sqlite:///{database}", locks[1])
        study.close()
        Study.delete(study.name, f"sqlite:///{database}", locks[1])
        Study.delete("never there", f"sqlite:///{database}", locks[1])
    with pytest.raises(KeyError):
        optuna.load_study(study_name=study.name, storage=f"sqlite:///{database}")
