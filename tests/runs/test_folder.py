"""What is said of a store before the first run."""

from typing import Any

import pytest

from lowrung.config import signature
from lowrung.finetune.found import Preflight
from lowrung.runs.folder import notes
from lowrung.store import atomic, layout
from tests import composing

HERE: dict[str, Any] = {"model_fingerprint": "m", "data_fingerprint": "d"}


@pytest.fixture(scope="module")
def composer():
    with composing.composer() as made:
        yield made


@pytest.fixture
def said(composer, tmp_path):
    """The notes on a store of runs that are given as changes of what would be written now."""

    def of(*runs, found=()):
        for number, changed in enumerate(runs):
            folder = layout.run_folder(tmp_path, f"run{number}")
            folder.path.mkdir()
            written = {**signature.environment(**HERE, tokens="t", threads=1), **changed}
            if written.pop("is_finished", True):
                atomic.write_json(folder.outcome, {})
            atomic.write_json(folder.environment, {k: v for k, v in written.items() if v is not None})
        config = composer.config("model=tiny", "train.learning_rate=1e-3", f"store={tmp_path}")
        return notes(config, [Preflight(**HERE, notes=found)])

    return of


def test_results_of_an_older_version_are_said_in_one_line(said, tmp_path):
    old = {"source": None, "lowrung": "0.1.0"}
    assert said(old, old, {}) == [
        f"{tmp_path} has 2 results for this model and data from lowrung 0.1.0: kept, but not reused"
    ]


def test_so_are_results_of_other_libraries(said, tmp_path):
    versions = {**signature.versions(signature.PACKAGES), "torch": "1.0", "peft": "0.1"}
    assert said({"versions": versions}) == [
        f"{tmp_path} has 1 result for this model and data from torch 1.0 and peft 0.1: kept, but not reused"
    ]


def test_other_models_other_data_unfinished_and_present_runs_are_not(said):
    old = {"source": None, "lowrung": "0.1.0"}
    others: list[dict[str, Any]] = [{"model_fingerprint": "n"}, {"data_fingerprint": "e"}, {"is_finished": False}]
    assert said(*({**old, **other} for other in others), {}) == []


def test_a_damaged_record_stops_no_other_run(said, tmp_path):
    folder = layout.run_folder(tmp_path, "damaged")
    folder.path.mkdir()
    folder.outcome.write_text("{}")
    folder.environment.write_text("{")
    assert said({}) == []


def test_each_note_comes_once(said):
    assert said({}, found=("one", "two", "one")) == ["one", "two"]
