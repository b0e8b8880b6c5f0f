"""Opens MLflow's store, makes it where it is missing, and says in lowrung's words what MLflow's errors mean."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from lowrung.errors import UsageError, first_line
from lowrung.store import addresses, atomic
from lowrung.track.base import EXPERIMENT, TrackerLostError, TrackError, check_uri

# A traceback for each error of a database, and a line for each attempt to reach a server: we raise what comes of it.
for _name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for a run that it does not know; the second means that this is not even an id."""

IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""How a command asks a server unless the environment differs. MLflow's own 120 s and 7 retries are 16 minutes."""

_NO_ANSWER = re.compile(r"API request to (\w+://[^/\s]+)\S* failed with exception .*\(Caused by \w+\((.*)\)\)")
_AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")  # no answer from a server; none from a database

_REFUSED = {
    "UNAUTHENTICATED": (
        "the server asks for a user, and takes none that it was given. Set MLFLOW_TRACKING_USERNAME and"
        " MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment, or write them into ~/.netrc"
    ),
    "PERMISSION_DENIED": "the server does not let this user do that: ask who runs it for EDIT on the experiment",
}
"""What a server with users says, by MLflow's error code; its own text names a page of MLflow's documentation."""


def create_store(uri: str, experiment: str, artifacts: Path) -> None:
    """Makes the database and the experiment where they are missing. The parent calls it once, before it has children.

    Args:
        uri: the address of the store, absolute (see `lowrung.track.base.store_uri`).
        experiment: the experiment's name.
        artifacts: where the artifacts of a new experiment go; a tracking server keeps them itself.

    Raises:
        UsageError: when ``track.uri`` or ``track.experiment`` cannot be used.
    """
    _require_sound(uri)
    database = addresses.sqlite_path(uri)
    with translated(), _alone(database):
        if database and not database.exists():
            _make_database(database)
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = None if uri.startswith("http") else artifacts.absolute().as_uri()
            client.create_experiment(experiment, artifact_location=location)
        elif found.lifecycle_stage != "active":
            raise UsageError(
                f"track.experiment (or {EXPERIMENT}) must name an experiment that is in use, but {experiment!r} was "
                "deleted in MLflow. Restore it there, or choose another name."
            )


def open_store(uri: str) -> MlflowClient:
    """A client of a store that is there.

    Raises:
        UsageError: when ``track.uri`` cannot be used.
        TrackError: when the store is missing; nothing is created here.
    """
    _require_sound(uri)
    database = addresses.sqlite_path(uri)
    if database and not database.is_file():  # MLflow would make it, and two processes at once would fail
        raise TrackError(f"There is no database at {database}.")
    with translated():
        return MlflowClient(uri)


def hurry() -> None:
    """Has this process give up soon on a server that does not answer: somebody waits for what it says."""
    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)


def _require_sound(uri: str) -> None:
    problems = check_uri(uri)
    if problems:
        raise UsageError(problems)


def _make_database(database: Path) -> None:
    """Makes a database aside and swaps it in: killed between MLflow's migrations, it would be of use to nobody."""
    aside = database.with_name(f".{database.name}.new")
    for leftover in (aside, aside.with_name(f"{aside.name}-journal")):
        leftover.unlink(missing_ok=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    MlflowClient(f"sqlite:///{aside}")
    os.replace(aside, database)


@contextlib.contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """Keeps two sweeps from making one SQLite database at the same time; a server takes care of that itself."""
    if database is None:
        yield
    else:
        with atomic.lock(database.with_name(f".{database.name}.lock"), wait=True):
            yield


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns MLflow's errors into ours, so that no caller needs to know MLflow."""
    try:
        yield
    except MlflowException as error:
        raise ours(error) from error
    except SQLAlchemyError as error:  # a file that is no database: MLflow opens it before it handles errors
        raise TrackerLostError(f"MLflow: {first_line(error)}") from error
    except RequestException as error:  # of a server's artifacts, which MLflow does not translate
        raise (TrackerLostError if _may_pass(error) else TrackError)(f"MLflow: {error}") from error
    except OSError as error:  # the folder of the artifacts
        raise TrackError(f"MLflow: {error}") from error


def _may_pass(error: RequestException) -> bool:
    """Whether a server may take the same request some time later: it did not answer, or said that it cannot now."""
    return error.response is None or error.response.status_code in (429, *range(500, 600))


def ours(error: MlflowException) -> TrackError:
    """The error in one line. SQLAlchemy's messages go on with the query, and some begin with what caused them."""
    lines = str(error.message).splitlines()
    line = next((line for line in lines if not line.startswith("(raised as a result of")), "no message")
    if no_answer := _NO_ANSWER.fullmatch(line):
        cause = no_answer[2].strip("\"'").rpartition(": ")[2]
        return TrackerLostError(f"MLflow: no answer from {no_answer[1]}: {cause}")
    line = _REFUSED.get(error.error_code, line)
    return (TrackerLostError if error.error_code in _AWAY else TrackError)(f"MLflow: {line}")
