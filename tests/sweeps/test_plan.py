"""What a sweep is to do, its preflight included."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowrung.errors import UsageError
from lowrung.runs import known
from tests.stage import SEEN


def test_a_folder_that_cannot_be_written_is_named(here):
    with pytest.raises(UsageError, match=r"hydra\.sweep\.dir must be where files can be written, but /proc"):
        here.sweep("hydra.sweep.dir=/proc/none")
    assert here.ran == []


@pytest.mark.slow
def test_the_preflights_problems_end_the_sweep_each_is_reported_once(here):
    seen = SimpleNamespace(problems=("no such model", "no such module"))
    with pytest.raises(UsageError) as caught:
        here.sweep("lora.r=4,8", "data=docstrings,number_words", seen=seen)
    assert caught.value.problems == ["no such model", "no such module"]
    assert not Path("runs").exists()
    assert not here.tracker.runs


@pytest.mark.slow
def test_libraries_are_loaded_at_once_where_something_is_to_be_computed_and_else_never(here, monkeypatch):
    here.sweep("lora.r=2,4")
    assert here.engine.is_preloaded  # for the preflight
    monkeypatch.setattr(known, "preflight", lambda arguments: SEEN)
    assert here.sweep("lora.r=2,4", "study=answered") == []
    assert not here.engine.is_preloaded
    assert len(here.sweep("lora.r=2,4,8", "study=longer")) == 1
    assert here.engine.is_preloaded  # for the last rank


@pytest.mark.slow
def test_several_gpus_for_a_model_that_lies_on_one_are_refused(here):
    with pytest.raises(UsageError, match=r"gpus_per_trial=2 needs a model that is spread over them.*device_map=auto"):
        here.sweep("lora.r=2,4", "hydra.launcher.gpus_per_trial=2")
    spread = ["hydra.launcher.gpus_per_trial=2", "model.device_map=auto"]
    assert len(here.sweep("lora.r=2,4", *spread)) == 2


@pytest.mark.slow
def test_a_hub_models_branch_is_pinned_to_the_commit_that_was_found(here):
    seen = dataclasses.replace(SEEN, revision="c0ffee")
    here.sweep("lora.r=2,4", "model.path=some/model", "model.revision=main", seen=seen)
    assert [assignment.preflight.revision for assignment in here.assigned] == ["c0ffee"] * 2
    for number in (0, 1):
        job = here.study.job(number)
        assert "revision: c0ffee" in (job.run / "config.yaml").read_text()
