"""What is tracked of a run: its history while it runs, and how it ended."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from lowrung.config import signature
from lowrung.config.schema import Config, TrackConf
from lowrung.errors import UsageError
from lowrung.finetune.data.split import Split
from lowrung.store import addresses, atomic, disk, mailbox, records
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome
from lowrung.track.base import (
    EXPERIMENT,
    EXPERIMENT_ID,
    NullTracker,
    Point,
    Tracker,
    TrackError,
    check_uri,
    chosen_experiment,
    chosen_uri,
    named_by,
    store_uri,
)
from lowrung.track.tolerant import Tolerant

FLUSH_SECONDS = 1.0
"""How often a run's history goes to the tracker: one call takes 20 ms, as long as a step of a small model."""


def tracking_problems(config: Config) -> list[str]:
    """What is wrong with where the runs would be tracked; nothing is opened yet."""
    uri = tracking_uri(config)
    if uri is None:
        return []
    if problems := [*check_uri(uri), *_experiment_problems(config)]:
        return problems
    database = addresses.sqlite_path(uri)
    if database is None:
        return []
    if database.exists() and not (database.is_file() and os.access(database, os.W_OK)):  # MLflow would try on and on
        return [f"{named_by(uri)} must name a file that can be written, but {database} is not one. Name another file."]
    return disk.unwritable(named_by(uri), database.parent)


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
    return TrackConf(track.kind, chosen_uri(track.uri), chosen_experiment(track.experiment))


def make_tracker(config: Config) -> Tolerant:
    """Makes the tracker's store where there is none, and opens it. Processes that do so at once would race.

    Raises:
        UsageError: when the store does not answer. Later on that is a warning: see `Tolerant`.
    """
    uri, experiment = tracking_uri(config), chosen_experiment(config.track.experiment)
    if uri is None:
        return Tolerant(NullTracker())
    from lowrung.track import mlflow

    print(f"tracking: {uri}, experiment {experiment}", flush=True)
    try:
        mlflow.create_store(uri, experiment, Path.cwd() / "mlruns")
        return Tolerant(mlflow.MlflowTracker(uri, experiment))
    except TrackError as error:
        raise UsageError(
            f"{named_by(uri)} must be a store that answers, but {uri} does not ({error}). Start it, name another one,"
            " or do without: track=none."
        ) from error


def open_tracker(uri: str | None, experiment: str) -> Tolerant:
    """Opens a tracker whose store exists, or did when the sweep started: without it a trial goes on untracked."""
    if uri is None:
        return Tolerant(NullTracker())
    from lowrung.track.mlflow import MlflowTracker

    try:
        return Tolerant(MlflowTracker(uri, experiment))
    except TrackError as error:
        return Tolerant.lost(error)


def key_params(config: Config) -> dict[str, str]:
    """The few parameters that a run is told apart by where nothing was swept."""
    return {
        "model": config.model.path.removeprefix("embedded:"),
        "data": config.data.name,
        "lora.r": str(config.lora.r) if config.lora.method == "lora" else config.lora.method,
        "train.learning_rate": f"{config.train.peak_rate:g}",
        "seed": str(config.seed),
    }


def start_single(tracker: Tracker, config: Config, folder: RunFolder) -> str:
    """Opens the tracker's run of a single run; one that goes on from a checkpoint has one already."""
    if folder.tracked.exists() and folder.checkpoints.exists():
        known = records.read(folder.tracked)
        if known["uri"] == tracking_uri(config) and tracker.has_run(known["run"]):
            return str(known["run"])
    name = f"r={config.lora.r}" if config.lora.method == "lora" else config.lora.method
    run_id = tracker.start_run(name, params=key_params(config), tags={"lowrung.kind": "run"})
    atomic.write_json(folder.tracked, {"uri": tracking_uri(config), "run": run_id})
    return run_id


def record(tracker: Tracker, run_id: str, folder: RunFolder, outcome: Outcome, data: Sequence[Split]) -> None:
    """Tracks what came of a run: its whole history, its last numbers, its data, its files. `end_run` closes it.

    The history may have come from the run before, but not all of it where the run was killed, was trained for another
    study, or found the tracker away.
    """
    history = [report.into(Point) for report in mailbox.Reader(folder.path).read()]
    last = max((point.step for point in history), default=0)
    tracker.log(run_id, [*history, Point(last, time.time(), outcome.numbers)])
    tracker.log_datasets(run_id, data)
    for path in (folder.config, folder.environment, folder.outcome, folder.held_out, folder.adapter):
        if path.exists():
            tracker.log_artifact(run_id, path)
    tags = {
        "lowrung.signature": folder.path.name,
        "lowrung.results": str(folder.path),
        "mlflow.source.git.commit": signature.git_commit(),
    }
    tracker.set_tags(run_id, {**tags, **({"lowrung.cause": outcome.cause} if outcome.cause else {})})


class History:
    """A run's history on its way to the tracker, in batches."""

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self._tracker, self._run = tracker, run_id
        self._points: list[Point] = []
        self._flushed = time.monotonic()

    def add(self, point: Point) -> None:
        """Takes one moment, and passes on what has gathered when a second has gone by."""
        self._points.append(point)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Passes on what has gathered."""
        points, self._points = self._points, []
        self._flushed = time.monotonic()
        self._tracker.log(self._run, points)
