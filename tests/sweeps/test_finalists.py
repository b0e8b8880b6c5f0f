"""``verify.runs=finalists`` leaves the gate to the last stage."""

import pytest

from lowrung.errors import UsageError
from tests.sweeps.test_stages import RANKS, RATES, staged


@pytest.mark.slow
def test_only_the_last_stage_s_runs_are_verified(here):
    ran = here.sweep(staged(RATES, RANKS), "verify.runs=finalists", "verify.forgetting=4")
    gates = [(config.lora.r, config.verify.enabled, config.verify.forgetting) for config in ran]
    assert gates == [(8, False, 0)] * 3 + [(4, True, 4), (8, True, 4), (16, True, 4)]
    assert {key for trial in here.trials() for key in trial.params} == {"lora.r", "train.learning_rate"}
    assert here.sweep(staged(RATES, RANKS), "verify.runs=finalists", "verify.forgetting=4") == []


@pytest.mark.slow
def test_without_a_gate_there_is_none_to_leave_out(here):
    ran = here.sweep(staged(RATES, RANKS), "verify=none", "verify.runs=finalists")
    assert [config.verify.enabled for config in ran] == [False] * 5


def test_it_needs_a_last_stage(here):
    with pytest.raises(UsageError, match=r"verify\.runs=finalists must have hydra\.sweeper\.stages of two stages"):
        here.sweep("lora.r=4,8", "verify.runs=finalists")
