"""The database of studies, which may be locked for a while, or away: calls wait for it, and then say why in words."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from lowrung.errors import LowrungError, StoreError, UsageError, first_line
from lowrung.store import addresses, disk

_T = TypeVar("_T")

WAIT_SECONDS = 120.0
"""How long a call waits for the database. A backup locks a study's for seconds."""

RETRY_SECONDS = 0.2
"""Between two tries. Both are short, so that a Ctrl-C is heard soon."""

SQLITE_SECONDS = 1.0
"""How long SQLite itself waits for a lock in each try."""

_LOCKED = ("is locked", "is busy", "already exists")
"""How SQLite says that another process is at work; the last is a race of two that make the tables."""

_LASTING = ("readonly database", "no such table", "no such column", "malformed", "not a database", "access denied")
"""What no waiting helps against."""


class Storage(RDBStorage):
    """Optuna's storage in a database. A call that finds the database locked or away waits, for `WAIT_SECONDS`.

    Not for several threads at a time.

    Args:
        address: the database's; a SQLite file is made when missing.

    Raises:
        StoreError: when there is no space left for it, or it stays locked.
        UsageError: when it does not open for any other reason.
    """

    def __init__(self, address: str) -> None:
        self._file = addresses.sqlite_path(address)
        self._kind = address.partition("://")[0]
        self._is_inside = False
        self._lost: StoreError | None = None
        kwargs = {} if self._file is None else {"connect_args": {"timeout": SQLITE_SECONDS}}
        try:
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            template = address.replace("{", "{{").replace("}", "}}")  # Optuna formats it, and a folder may be {0}
            self._patiently(lambda: super(Storage, self).__init__(template, engine_kwargs=kwargs), _is_locked)
        except LowrungError:
            raise
        except (ImportError, OSError, SQLAlchemyError, RuntimeError, ValueError) as error:
            raise self._unopened(error) from error

    def call(self, call: Callable[[], _T]) -> _T:
        """What the call returns; it is repeated while the database is locked or away.

        Raises:
            StoreError: when that does not end, or no waiting would help. Further calls raise the same at once.
        """
        if self._lost is not None:
            raise self._lost
        if self._is_inside:  # only the outermost call is repeated: its transaction is rolled back as a whole
            return call()
        self._is_inside = True
        try:
            return self._patiently(call, _may_pass)
        except (SQLAlchemyError, StorageInternalError) as error:
            self._lost = self._in_words(error)
            raise self._lost from error
        finally:
            self._is_inside = False

    def _patiently(self, call: Callable[[], _T], may_pass: Callable[[Exception], bool]) -> _T:
        deadline: float | None = None
        while True:
            try:
                return call()
            except UpdateFinishedTrialError:
                if deadline is None:
                    raise
                return True  # type: ignore[return-value]  # the try that broke off had told the trial after all
            except (SQLAlchemyError, StorageInternalError) as error:
                if not may_pass(error):
                    raise
                if deadline is None:
                    deadline = time.monotonic() + WAIT_SECONDS
                    print(f"note: {self._name} does not answer ({_cause(error)}); waiting for it", flush=True)
                if time.monotonic() >= deadline:
                    raise self._silent(error) from error
            time.sleep(RETRY_SECONDS)

    @property
    def _name(self) -> str:
        return f"this {self._kind} database" if self._file is None else str(self._file)

    def _unopened(self, error: Exception) -> LowrungError:
        if disk.is_full(error, Path.cwd()):
            return disk.no_space(error)
        which = f"this {self._kind} one" if self._file is None else self._file
        remedy = "Start it, or correct the address; a password goes into the environment."
        if isinstance(error, ImportError) and self._kind == "postgresql":
            remedy = "Install PostgreSQL's driver: pip install 'lowrung[postgresql]'."
        if self._file is not None:
            remedy = "Name another file, or move this one away: results are in the store, and are taken from there."
        cause = first_line(error)
        return UsageError(
            f"hydra.sweeper.storage must be a database that opens, but {which} does not: {cause}. {remedy}"
        )

    def _silent(self, error: Exception) -> StoreError:
        self._lost = StoreError(
            f"hydra.sweeper.storage must answer, but {self._name} has not for {WAIT_SECONDS:g} s"
            f" ({_cause(error)}). End what locks it, or start it. Results are in the store; the same command goes on."
        )
        return self._lost

    def _in_words(self, error: Exception) -> StoreError:
        if disk.is_full(error, Path.cwd()):
            return disk.no_space(error)
        return StoreError(
            f"hydra.sweeper.storage must take records, but {self._name} does not ({_cause(error)}). Correct that, or"
            " name another one. Results are in the store; the same command goes on."
        )


def _made_patient(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    def patient(self: Storage, *arguments: Any, **named: Any) -> Any:
        return self.call(lambda: method(self, *arguments, **named))

    return patient


_PRIVATE = ("_create_new_trial", "_get_trials", "_set_trial_param", "_get_best_trial_id")
"""What Optuna's cache calls beside the public methods."""

for _name in (name for name in vars(RDBStorage) if name.startswith(("create_", "delete_", "get_", "set_"))):
    setattr(Storage, _name, _made_patient(_name))
for _name in _PRIVATE:
    setattr(Storage, _name, _made_patient(_name))


def _origin(error: BaseException) -> BaseException:
    """The database's own error; Optuna's says only that there is one."""
    return error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error


def _cause(error: Exception) -> str:
    """What the database's driver said, in one line, without the statement: it holds values."""
    origin = _origin(error)
    said = origin.orig if isinstance(origin, DBAPIError) and origin.orig is not None else origin
    return first_line(said)


def _is_locked(error: Exception) -> bool:
    return isinstance(_origin(error), OperationalError) and any(text in _cause(error) for text in _LOCKED)


def _may_pass(error: Exception) -> bool:
    """Whether a database that was open may answer again."""
    origin = _origin(error)
    if isinstance(origin, IntegrityError) or disk.is_full(origin, Path.cwd()):
        return False
    is_away = isinstance(origin, OperationalError | InterfaceError)
    is_away |= isinstance(origin, DBAPIError) and origin.connection_invalidated
    return is_away and not any(text in _cause(error).lower() for text in _LASTING)
