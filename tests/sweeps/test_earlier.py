"""A sweep that is taught by an earlier one."""

import json

import pytest

from lowrung.errors import UsageError
from tests.stage import RATE

TAUGHT = "hydra.sweeper.warm_start=first"


@pytest.mark.slow
def test_the_earlier_trials_are_none_of_this_study(here, capsys):
    here.sweep("lora.r=2,8", RATE, "study=first", n_trials=3)
    tracked = len(here.tracker.runs)
    ran = here.sweep("lora.r=2,8", RATE, "study=second", TAUGHT, "train.max_steps=3", n_trials=2)
    assert len(ran) == 2
    shown = capsys.readouterr().out
    assert "note: 3 complete trials of first teach the sampler, although train.max_steps was 20, and is 3 now" in shown
    assert len(here.tracker.runs) == tracked + 3
    assert [row["trial"] for row in json.loads(here.results.folder.leaderboard.read_text())] in ([0, 1], [1, 0])
    again = here.sweep("lora.r=2,8", RATE, "study=second", TAUGHT, "train.max_steps=3", n_trials=2)
    assert again == []
    assert len(here.trials(here.results.folder)) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.r=2,4", RATE, "study=second", TAUGHT], "the name of an earlier study, but is 'first': there is none"),
        (["lora.r=2,4", TAUGHT], "must have an interval whose values are drawn"),
        (["lora.r=2,4", RATE, "study=first", TAUGHT], "must be another study, but first is this one"),
        (["lora.r=2,4", RATE, "hydra/sweeper/sampler=random", TAUGHT], r"learns from other studies' trials"),
    ],
)
def test_what_cannot_be_taught(here, overrides, message):
    with pytest.raises(UsageError, match=message):
        here.sweep(*overrides, n_trials=2)
    assert here.ran == []
