"""Runs as MLflow has them, read again: by their ids, or by what they are the run of."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from mlflow.exceptions import MlflowException

from lowrung.track import pages
from lowrung.track.opening import UNKNOWN, open_store, translated
from lowrung.track.tags import KIND_TAG, RESULTS_TAG, SIGNATURE_TAG, STUDY_TAG


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """A run that was tracked.

    Attributes:
        uri: the address of the store.
        run: its id.
        experiment: the name of its experiment.
        tags: what is noted of it.
    """

    uri: str
    run: str
    experiment: str
    tags: Mapping[str, str]

    @property
    def results(self) -> Path | None:
        """The folder of its results; None for a run without any, such as a whole sweep's."""
        folder = self.tags.get(RESULTS_TAG)
        return Path(folder) if folder else None


def by_id(uri: str, run: str) -> TrackedRun | None:
    """The run of this id, or None where the store has none.

    Raises:
        UsageError: when the address cannot be used.
        TrackError: when the store is missing or does not answer.
    """
    client = open_store(uri)
    with translated():
        try:
            found = client.get_run(run)
        except MlflowException as error:
            if error.error_code in UNKNOWN:
                return None
            raise
        return TrackedRun(uri, run, client.get_experiment(found.info.experiment_id).name, found.data.tags)


def by_signature(uri: str, signature: str) -> TrackedRun | None:
    """The latest complete run of this signature, or None: one result may be part of several sweeps.

    Raises:
        UsageError: when the address cannot be used.
        TrackError: when the store is missing or does not answer.
    """
    client = open_store(uri)
    with translated():
        names = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
        condition = f"tags.`{SIGNATURE_TAG}` = '{signature}' AND attributes.status = 'FINISHED'"
        found = client.search_runs(list(names), condition, max_results=1, order_by=["attributes.start_time DESC"])
    return (
        TrackedRun(uri, found[0].info.run_id, names[found[0].info.experiment_id], found[0].data.tags) if found else None
    )


@dataclasses.dataclass(frozen=True)
class TrackedSweep:
    """A sweep that was tracked.

    Attributes:
        run: the id of its run.
        study: the study's name.
        experiment: the id of its experiment.
        has_view: whether the experiment has a saved view of it; see `lowrung.track.pages`.
    """

    run: str
    study: str
    experiment: str
    has_view: bool


def sweep(uri: str, study: str | None = None) -> TrackedSweep | None:
    """The latest sweep, of this study where one is named, or None where there is none.

    Raises:
        UsageError: when the address cannot be used.
        TrackError: when the store is missing or does not answer.
    """
    client = open_store(uri)
    quote = '"' if study and "'" in study else "'"
    of_study = f" AND tags.`{STUDY_TAG}` = {quote}{study}{quote}" if study is not None else ""
    condition = f"tags.`{KIND_TAG}` = 'sweep'{of_study}"
    with translated():
        experiments = {experiment.experiment_id: experiment for experiment in client.search_experiments()}
        latest = ["attributes.start_time DESC"]
        found = client.search_runs(list(experiments), condition, max_results=1, order_by=latest)
    if not found:
        return None
    run = found[0].info
    has_view = f"{pages.VIEW_TAG}{pages.view_name(run.run_id)}" in experiments[run.experiment_id].tags
    return TrackedSweep(run.run_id, found[0].data.tags.get(STUDY_TAG, run.run_name), run.experiment_id, has_view)
