"""The order of a sweep's trials: the exact grid, a search at its points in turn, the deadline."""

import json
from collections import Counter

import pytest
from optuna.trial import TrialState

from lowrung.config.schema import Config
from lowrung.store.outcome import Outcome
from tests.stage import RATE, ranks, trains


class TestGrid:
    @pytest.mark.slow
    def test_every_point_once_in_command_line_order(self, here, capsys):
        ran = here.sweep("lora.r=8,4,8", "train.max_steps=2,1", "seed=3")
        assert [(config.lora.r, config.train.max_steps) for config in ran] == [(8, 2), (8, 1), (4, 2), (4, 1)]
        assert {config.seed for config in ran} == {3}
        assert {config.lora.alpha for config in ran} == {32}
        assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE] * 4

    @pytest.mark.slow
    def test_n_trials_caps_it_and_a_larger_number_goes_on(self, here):
        assert ranks(here.sweep("lora.r=2,4,8,16", n_trials=2)) == [2, 4]
        assert ranks(here.sweep("lora.r=2,4,8,16", n_trials=3)) == [8]
        assert ranks(here.sweep("lora.r=2,4,8,16")) == [16]
        assert len(here.trials()) == 4


class TestSearch:
    @pytest.mark.slow
    def test_the_grids_points_take_turns(self, here):
        ran = here.sweep("lora.r=2,4,8", RATE, n_trials=5, slots=2)
        assert Counter(ranks(ran)) == {2: 2, 4: 2, 8: 1}
        assert len({config.train.learning_rate for config in ran}) == 5

    @pytest.mark.slow
    def test_a_search_in_parts_is_the_search_in_one(self, here, tmp_path, monkeypatch):
        parts = [config for n in (1, 3) for config in here.sweep("lora.r=2,4", RATE, n_trials=n)]
        monkeypatch.chdir(tmp_path)
        whole = here.sweep("lora.r=2,4", RATE, n_trials=3)
        assert len(whole) == 3
        assert [c.train.learning_rate for c in parts] == [c.train.learning_rate for c in whole]


class TestTimeout:
    @pytest.mark.slow
    def test_no_trial_starts_when_the_time_is_up(self, here, monkeypatch, capsys):
        now = 0.0
        monkeypatch.setattr("lowrung.sweeps.agenda.time.monotonic", lambda: now)

        def act(config: Config) -> Outcome:
            nonlocal now
            now += 40
            return trains(config)

        assert ranks(here.sweep("lora.r=2,4,8", "hydra.sweeper.timeout=1m", act=act)) == [2, 4]
        printed = capsys.readouterr().out
        assert printed.count("hydra.sweeper.timeout=1m is over: no further trial starts") == 1
        said = "1 of 3 trials have not been run. hydra.sweeper.timeout=1m is over; the same command goes on."
        assert said in json.loads(here.study.verdict.read_text())["warnings"]
        assert ranks(here.sweep("lora.r=2,4,8", "hydra.sweeper.timeout=1m", act=act)) == [8]
