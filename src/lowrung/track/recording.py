"""What is tracked of a run: its history while it runs, and how it ended."""

import contextlib
import dataclasses
import os
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from lowrung.config import signature
from lowrung.config.schema import Config, TrackConf
from lowrung.errors import UsageError
from lowrung.finetune.data.split import Split
from lowrung.store import addresses, atomic, disk, mailbox, records
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome
from lowrung.track import system
from lowrung.track.base import (
    EXPERIMENT,
    EXPERIMENT_ID,
    Opening,
    Point,
    Tracker,
    TrackerLostError,
    TrackError,
    check_uri,
    chosen_experiment,
    chosen_uri,
    named_by,
    store_uri,
)
from lowrung.track.sender import Sender
from lowrung.track.sparing import SparingTracker

FLUSH_SECONDS = 5.0
"""How often a run's history goes to the tracker: one call takes 5 ms of CPU time for one step of ten metrics,
39 ms for fifty (in SQLite), so 0.1 to 0.8% of the time."""

PATIENCE_SECONDS, FILE_SECONDS = 5.0, 60.0
"""How long a sweep or a run waits for a tracker's first answer; a new database in a file takes 5 to 10 s to make."""

END_SECONDS = 10.0
"""How long a run that has ended waits until all of it is sent; after that its sweep sends it, beside the next runs."""

MOST_POINTS = 10_000
"""Of a run, that wait for a tracker that is away. At its end it gets all of them from the run's folder."""

_SQLITE = b"SQLite format 3\0"
"""What a SQLite database begins with: https://sqlite.org/fileformat.html."""

_PASSING = ("locked", "full")
_T = TypeVar("_T")


def tracking_problems(config: Config) -> list[str]:
    """What is wrong with where the runs would be tracked; nothing is opened yet."""
    uri = tracking_uri(config)
    if uri is None:
        return []
    if problems := [*check_uri(uri), *_experiment_problems(config)]:
        return problems
    database = addresses.sqlite_path(uri)
    if database is None:
        return addresses.driver_problems(named_by(uri), uri)
    if database.exists() and not (database.is_file() and os.access(database, os.W_OK)):  # MLflow would try on and on
        return [f"{named_by(uri)} must name a file that can be written, but {database} is not one. Name another file."]
    if _is_no_database(database):
        return [f"{named_by(uri)} must name a SQLite database, but {database} is another file. Name another one."]
    return disk.unwritable(named_by(uri), database.parent)


def _is_no_database(file: Path) -> bool:
    """Whether a file holds something else; an empty one is a database without tables."""
    if not file.exists():
        return False
    with file.open("rb") as opened:
        return opened.read(len(_SQLITE)) not in (b"", _SQLITE)


def _experiment_problems(config: Config) -> list[str]:
    """MLflow would take an id too: to pass it over would put the runs where nobody expects them."""
    if not os.environ.get(EXPERIMENT_ID) or config.track.experiment or os.environ.get(EXPERIMENT):
        return []
    return [
        f"MLflow's experiment must be given by its name, but the environment has {EXPERIMENT_ID} alone. Set"
        f" {EXPERIMENT} or track.experiment to its name."
    ]


def tracking_uri(config: Config) -> str | None:
    """The tracker's absolute address, or None where nothing is tracked."""
    return store_uri(config.track.uri, Path.cwd()) if config.track.kind == "mlflow" else None


def settled(track: TrackConf) -> TrackConf:
    """What a run or a sweep notes of where it is tracked: a later command need not have the same environment."""
    if track.kind != "mlflow":
        return track
    return dataclasses.replace(track, uri=chosen_uri(track.uri), experiment=chosen_experiment(track.experiment))


def sender(config: Config, *, may_lack_nothing: bool = False) -> Sender:
    """Sends to the tracker of a config, whose store it makes where there is none, and prints which one that is.

    Args:
        config: a run's.
        may_lack_nothing: whether all may be tracked already; MLflow is imported only for what is not, where its store
            is a file.
    """
    uri, experiment = tracking_uri(config), chosen_experiment(config.track.experiment)
    if uri is None:
        return Sender.null()
    print(f"tracking: {uri}, experiment {experiment}", flush=True)
    database, artifacts = addresses.sqlite_path(uri), Path.cwd() / "mlruns"

    def connect() -> Tracker:
        return made(uri, experiment, artifacts)

    if may_lack_nothing and database is not None:
        return Sender(lambda: SparingTracker(database, experiment, connect))
    return Sender(connect)


def sender_to(uri: str | None, experiment: str) -> Sender:
    """Sends to a tracker whose store exists, or did when the sweep started."""
    return Sender.null() if uri is None else Sender(lambda: opened(uri, experiment))


def made(uri: str, experiment: str, artifacts: Path) -> Tracker:
    """Opens a tracker, and makes its store where there is none. Processes that do so at once would race.

    Raises:
        UsageError: when the address or the experiment cannot be used.
        TrackerLostError: when it does not answer.
    """
    from lowrung.track import opening

    opening.create_store(uri, experiment, artifacts)
    return opened(uri, experiment)


def opened(uri: str, experiment: str) -> Tracker:
    """Opens a tracker whose store exists.

    Raises:
        TrackError: when it does not, or does not answer.
    """
    from lowrung.track.mlflow import MlflowTracker

    return MlflowTracker(uri, experiment)


def first_answer(sender: Sender, config: Config, opened: "Future[_T]") -> _T | None:
    """What a sender's first call comes to; None where that is not known within `PATIENCE_SECONDS`.

    A server that is away, and a database that is locked or full, may be back later: nothing waits for them.

    Raises:
        UsageError: when the store can never be used: its address, its experiment, a file that is no database.
    """
    uri = tracking_uri(config)
    seconds = FILE_SECONDS if uri and addresses.sqlite_path(uri) else PATIENCE_SECONDS
    until = time.monotonic() + seconds
    while not opened.done() and sender.problem is None and time.monotonic() < until:
        wait([opened], 0.05)
    error = opened.exception() if opened.done() else sender.problem
    if isinstance(error, UsageError):
        raise error
    if isinstance(error, TrackError) and uri and not _may_return(uri, error):
        raise UsageError(
            f"{named_by(uri)} must be a store that can be used, but {uri} cannot ({error}). Correct it, name another"
            " one, or do without: track=none."
        ) from error
    if error is None and not opened.done():
        sender.say(f"warning: the tracker has not answered for {seconds:.0f} s; all goes on without it")
    return opened.result() if opened.done() and error is None else None


def _may_return(uri: str, error: TrackError) -> bool:
    is_file = addresses.sqlite_path(uri) is not None
    return isinstance(error, TrackerLostError) and (not is_file or any(word in str(error) for word in _PASSING))


def key_params(config: Config) -> dict[str, str]:
    """The few parameters that a run is told apart by where nothing was swept."""
    return {
        "model": config.model.path.removeprefix("embedded:"),
        "data": config.data.name,
        "lora.r": str(config.lora.r) if config.lora.method == "lora" else config.lora.method,
        "train.learning_rate": f"{config.train.peak_rate:g}",
        "seed": str(config.seed),
    }


def single_opening(config: Config, folder: RunFolder) -> Opening:
    """How the tracker's run of a single run begins; one that goes on from a checkpoint has the same key again."""
    key = None
    if folder.tracked.exists() and folder.checkpoints.exists():
        known = records.read(folder.tracked)
        key = known.get("key") if known.get("uri") == tracking_uri(config) else None
    if key is None:
        key = uuid.uuid4().hex
        atomic.write_json(folder.tracked, {"uri": tracking_uri(config), "key": key})
    name = f"r={config.lora.r}" if config.lora.method == "lora" else config.lora.method
    return Opening(name, key, key_params(config), {"lowrung.kind": "run"})


def record(
    tracker: Tracker,
    run_id: str,
    folder: RunFolder,
    outcome: Outcome,
    data: Sequence[Split],
    tags: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Tracks what came of a run: its whole history, its last numbers, its data, its files. `end_run` closes it.

    The history may have come from the run before, but not all of it where the run was killed, was trained for another
    study, or found the tracker away. The tags come last: a tracker that has them has all.
    """
    history = [report.into(Point) for report in mailbox.Reader(folder.path).read()]
    last = max((point.step for point in history), default=0)
    ended = folder.outcome.stat().st_mtime if folder.outcome.exists() else time.time()  # the same when sent again
    tracker.log(run_id, [*history, *system.read(folder), Point(last, ended, outcome.numbers)])
    tracker.log_datasets(run_id, data)
    for path in (folder.config, folder.environment, folder.outcome, folder.held_out, folder.adapter):
        if path.exists():
            tracker.log_artifact(run_id, path)
    known = {
        **tags,
        "lowrung.signature": folder.path.name,
        "lowrung.results": str(folder.path),
        "mlflow.source.git.commit": signature.git_commit(),
    }
    tracker.set_tags(run_id, {**known, **({"lowrung.cause": outcome.cause} if outcome.cause else {})})


def measuring(config: Config, folder: RunFolder, history: "History") -> contextlib.AbstractContextManager[None]:
    """Keeps how busy the machine is while the block runs, where ``track.system_metrics`` asks for it."""
    if config.track.kind != "mlflow" or not config.track.system_metrics:
        return contextlib.nullcontext()
    return system.measured(folder, history.add)


class History:
    """A run's history on its way to the tracker, in batches.

    Args:
        sender: carries it.
        opening: how the tracker's run begins; None where it is not tracked as it goes on.
    """

    def __init__(self, sender: Sender, opening: Opening | None) -> None:
        self._sender, self._opening = sender, opening
        self._points: deque[Point] = deque(maxlen=MOST_POINTS)
        self._flushed = time.monotonic()
        self._run = None if opening is None else sender.send(opening.open, opening.name)
        self._sent: Future[None] | None = None

    def add(self, point: Point) -> None:
        """Takes one moment, and passes on what has gathered every `FLUSH_SECONDS`."""
        if self._run is not None:
            self._points.append(point)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Passes on what has gathered, unless the tracker has not even taken what came before."""
        if self._opening is not None and (self._sent is None or self._sent.done()):
            self._flushed = time.monotonic()
            self._sent = self._sender.send(self._send, self._opening.name)

    def _send(self, tracker: Tracker) -> None:
        points = list(self._points)
        if not points or self._run is None:
            return
        try:
            tracker.log(self._run.result(), points)
        except TrackerLostError:
            raise  # asked again, with what has come meanwhile
        except Exception:
            self._drop(points)  # refused once, refused again
            raise
        self._drop(points)

    def _drop(self, points: Sequence[Point]) -> None:
        """Forgets points; the oldest may have made room for newer ones meanwhile."""
        for point in points:
            if self._points and self._points[0] is point:
                self._points.popleft()
