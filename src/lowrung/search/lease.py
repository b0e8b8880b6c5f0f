"""One coordinator a study, wherever its storage is: a record in the storage says whose the study is.

The holder counts up in the record every `BEAT_SECONDS`, from a thread. A holder on this machine that was killed is
known at once: the system has freed the lock of its study's folder. One on another machine counts as gone when its
record has stayed the same over `BEATS_MISSED` readings. So no clock is compared with another machine's, and the time in
which the storage answers nobody does not count.
"""

import contextlib
import dataclasses
import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from sqlalchemy import column, insert, select, table, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from lowrung.errors import FolderInUse, StoreError
from lowrung.search.storage import Storage
from lowrung.store import atomic

BEAT_SECONDS = 5.0
BEATS_MISSED = 8

KEY = "lowrung:coordinator"
"""What a study's coordinator is noted by."""

_RECORDS = table("study_system_attributes", column("study_id"), column("key"), column("value_json"))
"""Where Optuna keeps what is noted on a study: one value for each key, held by the database itself."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who has a study.

    Attributes:
        id: differs for each start of a coordinator.
        beat: counts up as long as the holder lives.
        host: the machine's name, for people.
        pid: the process, for people.
        machine: the same for all processes below one running kernel; None where that is not known.
        lock: the file that the holder has locked.
        lock_id: the file's device and inode.
        time: of the last beat, in seconds since 1970 by the holder's clock, for people; None of an older version.
    """

    id: str
    beat: int
    host: str
    pid: int
    machine: str | None
    lock: str
    lock_id: tuple[int, int]
    time: float | None = None

    @classmethod
    def here(cls, lock: Path) -> "Holder":
        """This process, which has locked a file."""
        found = _identity(lock.stat())
        return cls(
            uuid.uuid4().hex, 0, platform.node(), os.getpid(), _machine(), str(lock.resolve()), found, time.time()
        )

    @property
    def next(self) -> "Holder":
        """The same holder, a beat later."""
        return dataclasses.replace(self, beat=self.beat + 1, time=time.time())

    @property
    def text(self) -> str:
        """As it is kept."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> "Holder":
        """Reads what is kept."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "lock_id": tuple(fields["lock_id"])})


class StudyTaken(StoreError):  # noqa: N818  (it names a state)
    """Another process is the study's coordinator."""


class Lease:
    """A study's record of its coordinator, taken by this process until `release`.

    Args:
        storage: the study's, of this lease alone.
        study_id: the storage's id of the study.
        lock: a file that this process has locked, as long as it runs.

    Raises:
        StudyTaken: when a process that lives has the study.
    """

    def __init__(self, storage: Storage, study_id: int, lock: Path) -> None:
        self._storage = storage
        self._study_id = study_id
        self._mine = Holder.here(lock)
        self._guard = threading.Lock()
        self._taker: str | None = None
        self._has_ended = threading.Event()
        self._take()
        self._renewed = time.monotonic()
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def require(self) -> None:
        """Makes sure that the study is still this process's: it may have been suspended, and so counted as gone.

        Raises:
            StudyTaken: when it is another's.
        """
        if time.monotonic() - self._renewed > BEAT_SECONDS * BEATS_MISSED / 2:
            with self._guard:
                self._storage.call(self._renew)
        if self._taker is not None:
            raise StudyTaken(
                f"Another process has taken over the study: {self._taker}. This one ends; it goes on there."
            )

    def release(self) -> None:
        """Gives the study up, so that the next process need not find out that this one is gone."""
        self._has_ended.set()
        with self._guard, contextlib.suppress(SQLAlchemyError, StoreError):
            self._swap(self._mine.text, "null")

    # -- taking --------------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        while not self._storage.call(self._try):
            pass

    def _try(self) -> bool:
        """Takes the study, unless another process has; False where another one was quicker."""
        found = self._read()
        if found is None:
            return self._insert()
        if found != "null":
            self._wait_for_its_end(found)
        return self._swap(found, self._mine.text)

    def _wait_for_its_end(self, found: str) -> None:
        holder = Holder.parse(found)
        if self._has_died(holder):
            return
        name = f"process {holder.pid} on {holder.host} ({Path(holder.lock).parent})"
        if holder.machine == self._mine.machine and _is_locked(holder):
            raise StudyTaken(name)
        seconds = BEAT_SECONDS * BEATS_MISSED
        print(f"note: the study was last run by {name}; waiting {seconds:g} s to see whether it is alive", flush=True)
        for _ in range(BEATS_MISSED):
            time.sleep(BEAT_SECONDS)
            if self._read() != found:
                raise StudyTaken(name)

    def _has_died(self, holder: Holder) -> bool:
        """Whether a holder on this machine is known to have ended: its lock is free, or is the one that we hold."""
        if holder.machine is None or holder.machine != self._mine.machine:
            return False
        if holder.lock_id == self._mine.lock_id:
            return True
        return _is_there(holder) and not _is_locked(holder)

    # -- holding -------------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        while not self._has_ended.wait(BEAT_SECONDS):
            with self._guard, contextlib.suppress(SQLAlchemyError):  # it is tried again with the next beat
                if not self._has_ended.is_set():
                    self._renew()

    def _renew(self) -> None:
        beat = self._mine.next
        if self._swap(self._mine.text, beat.text):
            self._mine = beat
            self._renewed = time.monotonic()
        elif self._taker is None:
            self._lose()

    def _lose(self) -> None:
        found = self._read()
        holder = None if found in (None, "null") else Holder.parse(str(found))
        if holder and (holder.id, holder.beat) == (self._mine.id, self._mine.beat + 1):
            self._mine = holder  # the last beat was written, though its answer was lost
            return
        self._taker = "it was deleted" if holder is None else f"process {holder.pid} on {holder.host}"
        self._has_ended.set()

    # -- the record ----------------------------------------------------------------------------------------------------

    def _read(self) -> str | None:
        with self._storage.engine.connect() as connection:
            value = connection.execute(select(_RECORDS.c.value_json).where(*self._where())).scalar()
        return None if value is None else str(value)

    def _insert(self) -> bool:
        values = {"study_id": self._study_id, "key": KEY, "value_json": self._mine.text}
        try:
            with self._storage.engine.begin() as connection:
                connection.execute(insert(_RECORDS).values(values))
        except IntegrityError:
            return False
        return True

    def _swap(self, before: str, after: str) -> bool:
        """Replaces the record in one statement, if it is still ``before``: of several processes one succeeds."""
        statement = update(_RECORDS).where(*self._where(), _RECORDS.c.value_json == before).values(value_json=after)
        with self._storage.engine.begin() as connection:
            return connection.execute(statement).rowcount == 1

    def _where(self) -> tuple[Any, ...]:
        return _RECORDS.c.study_id == self._study_id, _RECORDS.c.key == KEY


def is_alive(text: str) -> bool | None:
    """Whether the coordinator that a study's record names still has it; None where that is not known.

    Of a coordinator on another machine it is not known. A record that says that nobody has the study is believed, so
    that no lock is touched.

    Args:
        text: the record, as it is kept.
    """
    if text == "null":
        return False
    try:
        holder = Holder.parse(text)
    except (KeyError, TypeError, ValueError):  # of another version
        return None
    if holder.machine is None or holder.machine != _machine():
        return None
    try:
        return _is_locked(holder)
    except OSError:  # not ours to lock
        return None


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _is_there(holder: Holder) -> bool:
    try:
        return _identity(Path(holder.lock).stat()) == holder.lock_id
    except OSError:
        return False


def _is_locked(holder: Holder) -> bool:
    """Whether a process has locked the holder's file, as this machine's kernel knows."""
    if not _is_there(holder):
        return False
    try:
        with atomic.lock(Path(holder.lock)):
            return False
    except FolderInUse:
        return True


def _machine() -> str | None:
    """The running kernel. Locks of one kernel are seen by all its processes, those in containers included."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux: the network card's number, where it is known, which containers do not share
        return f"{uuid.getnode():x}" if not uuid.getnode() >> 40 & 1 else None
