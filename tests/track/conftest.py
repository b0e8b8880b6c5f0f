"""A store of MLflow for each test; making one takes seconds, a copy none."""

import pytest

from lowrung.store.outcome import Status
from lowrung.track.mlflow import MlflowTracker


@pytest.fixture
def uri(store_in, tmp_path):
    """The address of a store without any run."""
    return store_in(tmp_path)


@pytest.fixture
def run(uri):
    """A run that is complete, of the signature ab12."""
    return complete_run(uri)


def complete_run(uri):
    """Another one of that signature."""
    tracker = MlflowTracker(uri, "lowrung")
    run = tracker.start_run("r=8", tags={"lowrung.signature": "ab12", "lowrung.results": "/runs/ab12"})
    tracker.end_run(run, Status.COMPLETE)
    return run
