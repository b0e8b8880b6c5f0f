"""Runs as MLflow has them, read again."""

from pathlib import Path

import pytest

from lowrung.store.outcome import Status
from lowrung.track import lookup
from lowrung.track.base import TrackError, store_uri
from lowrung.track.mlflow import MlflowTracker
from lowrung.track.pages import View
from tests.track.conftest import complete_run


def test_a_run_is_found_by_its_id_and_by_its_signature(uri, run):
    latest = complete_run(uri)
    found = lookup.by_id(uri, run)
    assert found is not None
    assert (found.uri, found.run, found.experiment, found.results) == (uri, run, "lowrung", Path("/runs/ab12"))
    by_signature = lookup.by_signature(uri, "ab12")
    assert by_signature is not None
    assert by_signature.run == latest


def test_one_that_did_not_complete_does_not_stand_for_its_signature(uri):
    tracker = MlflowTracker(uri, "lowrung")
    tracker.end_run(tracker.start_run("r=8", tags={"lowrung.signature": "ab12"}), Status.PRUNED)
    assert lookup.by_signature(uri, "ab12") is None


def test_a_sweep_has_no_results(uri):
    found = lookup.by_id(uri, MlflowTracker(uri, "lowrung").start_run("sweep"))
    assert found is not None
    assert found.results is None


def test_an_unknown_one_is_none(uri):
    assert lookup.by_id(uri, "0" * 32) is None
    assert lookup.by_signature(uri, "zz") is None


def test_a_store_that_is_missing_is_an_error(tmp_path):
    for find in (lookup.by_id, lookup.by_signature):
        with pytest.raises(TrackError, match="no database"):
            find(store_uri(None, tmp_path / "nowhere"), "0" * 32)


def test_the_latest_sweep_is_found_and_that_of_a_study(uri):
    assert lookup.sweep(uri) is None
    tracker = MlflowTracker(uri, "lowrung")
    names = ("one", "it's mine", "last")
    runs = {name: tracker.start_run(name, tags={"lowrung.kind": "sweep", "lowrung.study": name}) for name in names}
    tracker.present(runs["it's mine"], View(["lora.r"], {"eval/loss": "minimize"}))
    latest = lookup.sweep(uri)
    assert latest is not None
    assert (latest.run, latest.study, latest.has_view) == (runs["last"], "last", False)
    named = lookup.sweep(uri, "it's mine")
    assert named is not None
    assert (named.run, named.has_view) == (runs["it's mine"], True)
    assert lookup.sweep(uri, "another") is None
