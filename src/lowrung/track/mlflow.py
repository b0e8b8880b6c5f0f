"""Records runs in MLflow.

Everything goes through `MlflowClient` with explicit run ids. There is no active run and no other global state, so
that several processes, and several runs in one process, never get in each other's way.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mlflow import entities

from lowrung.finetune.data.split import Split
from lowrung.store.outcome import Status
from lowrung.track import pages
from lowrung.track.base import Child, Point, TrackError
from lowrung.track.opening import open_store, translated
from lowrung.track.pages import PARENT_TAG, View
from lowrung.track.tags import KEY_TAG, SIGNATURE_TAG, STATES, STATUS_TAG, short, short_params

_CONTEXT_TAG = "mlflow.data.context"
_DIGEST_LENGTH = 36  # characters; MLflow's limit
_PARAMS_PER_BATCH, _METRICS_PER_BATCH = 100, 1000
_PAGE = 1000  # runs that are asked for at once
_T = TypeVar("_T")


class MlflowTracker:
    """Implements `lowrung.track.base.Tracker` with a store that `create_store` has made.

    Args:
        uri: the address of the store, absolute.
        experiment: the experiment's name.

    Raises:
        UsageError: when ``track.uri`` cannot be used.
        TrackError: when the store or the experiment is missing; nothing is created here.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self._client = open_store(uri)
        with translated():
            found = self._client.get_experiment_by_name(experiment)
        if found is None:
            raise TrackError(
                f"There is no experiment {experiment!r} in {uri}. The next start of a sweep or run makes it."
            )
        self._experiment: str = found.experiment_id
        self._steps: dict[str, dict[str, set[int]]] = {}
        """By run that has not ended, and by metric."""

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> str:
        """See `Tracker`."""
        run = self.find(key) if key is not None else None
        if run is None:
            ours = {PARENT_TAG: parent, KEY_TAG: key}
            all_tags = {**(tags or {}), **{tag: value for tag, value in ours.items() if value}}
            with translated():
                created = self._client.create_run(self._experiment, tags=short(all_tags), run_name=name)
            run = str(created.info.run_id)
        self.log_params(run, params or {})
        return run

    def find(self, key: str) -> str | None:
        """See `Tracker`.

        A server that was halted may have carried out two requests for one run, late: all but the first are deleted.
        """
        first = ["attributes.start_time ASC"]
        with translated():
            found = self._client.search_runs([self._experiment], f"tags.`{KEY_TAG}` = '{key}'", order_by=first)
            for double in found[1:]:
                self._client.delete_run(double.info.run_id)
        return found[0].info.run_id if found else None

    def children(self, run: str) -> dict[str, Child]:
        """See `Tracker`."""
        found: dict[str, Child] = {}
        token: str | None = ""
        while token is not None:
            with translated():
                page = self._client.search_runs(
                    [self._experiment], pages.children(run), max_results=_PAGE, page_token=token or None
                )
            for child in page:
                tags = child.data.tags
                if KEY_TAG in tags:
                    status = Status(tags[STATUS_TAG]) if tags.get(STATUS_TAG) in set(Status) else None
                    found[tags[KEY_TAG]] = Child(child.info.run_id, status, tags.get(SIGNATURE_TAG))
            token = page.token
        return found

    def log(self, run: str, points: Sequence[Point]) -> None:
        """See `Tracker`."""
        new: dict[tuple[str, int], entities.Metric] = {}
        for point in points:
            for name, value in point.metrics.items():
                if point.step not in self._known_steps(run, name):
                    new.setdefault((name, point.step), _metric(name, value, point))
        with translated():
            for batch in _batches(list(new.values()), _METRICS_PER_BATCH):
                self._client.log_batch(run, metrics=batch)
                for metric in batch:
                    self._known_steps(run, metric.key).add(metric.step)

    def log_params(self, run: str, params: Mapping[str, str]) -> None:
        """See `Tracker`."""
        records = [entities.Param(name, value) for name, value in short_params(params).items()]
        with translated():
            for batch in _batches(records, _PARAMS_PER_BATCH):
                self._client.log_batch(run, params=batch)

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """See `Tracker`."""
        records = [entities.RunTag(name, value) for name, value in short(tags).items()]
        with translated():
            for batch in _batches(records, _PARAMS_PER_BATCH):
                self._client.log_batch(run, tags=batch)

    def log_datasets(self, run: str, datasets: Sequence[Split]) -> None:
        """See `Tracker`."""
        with translated():
            self._client.log_inputs(run, [_dataset(dataset) for dataset in datasets])

    def log_artifact(self, run: str, path: Path) -> None:
        """See `Tracker`."""
        with translated():
            self._client.log_artifact(run, str(path.absolute()))

    def end_run(self, run: str, status: Status) -> None:
        """See `Tracker`."""
        with translated():
            self._client.set_tag(run, STATUS_TAG, status.value)
            self._client.set_terminated(run, STATES[status])
        self._steps.pop(run, None)  # one that goes on is asked for again; a long sweep would hold all of its runs'

    def present(self, run: str, view: View) -> str:
        """See `Tracker`."""
        tag = f"{pages.VIEW_TAG}{pages.view_name(run)}"
        with translated():
            self._client.set_experiment_tag(self._experiment, tag, view.state(run))
        return pages.address(self._experiment, run)

    def _known_steps(self, run: str, metric: str) -> set[int]:
        """The steps at which the store has a value; MLflow itself would keep a second one and draw both."""
        if run not in self._steps:
            self._steps[run] = self._stored_steps(run)
        return self._steps[run].setdefault(metric, set())

    def _stored_steps(self, run: str) -> dict[str, set[int]]:
        """Only the histories that exist are asked for: each is a query, and most of a run's metrics come at its end."""
        with translated():
            names = self._client.get_run(run).data.metrics
            return {name: {point.step for point in self._client.get_metric_history(run, name)} for name in names}


def _batches(records: Sequence[_T], size: int) -> Iterator[list[_T]]:
    remaining = iter(records)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def _metric(name: str, value: float, point: Point) -> entities.Metric:
    """MLflow keeps NaN, but an infinity as ±1.8e308."""
    return entities.Metric(name, value if math.isfinite(value) else math.nan, int(point.time * 1000), point.step)


def _dataset(dataset: Split) -> entities.DatasetInput:
    record = entities.Dataset(
        name=dataset.name,
        digest=dataset.digest[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": dataset.source}),
        profile=json.dumps({"num_rows": dataset.rows}),
    )
    return entities.DatasetInput(record, [entities.InputTag(_CONTEXT_TAG, dataset.context)])
