"""Points that are tried first: their order, their number, and a study that is killed among them."""

import pytest

from lowrung.config.schema import Config
from lowrung.errors import UsageError
from lowrung.store.outcome import Outcome
from tests.stage import RATE, fails_at, ranks, trains

FIRST = "hydra.sweeper.first=[{lora.r:8,train.learning_rate:3e-3},{train.learning_rate:1e-2},{lora.r:8}]"


def points(configs: list[Config]) -> list[tuple[int, float | None]]:
    return [(config.lora.r, config.train.learning_rate) for config in configs]


class TestGrid:
    @pytest.mark.slow
    def test_only_the_order_changes(self, here):
        asked = "hydra.sweeper.first=[{lora.r:16},{lora.r:4,train.max_steps:2}]"
        ran = here.sweep("lora.r=2,4,16", "train.max_steps=1,2", asked)
        assert [(config.lora.r, config.train.max_steps) for config in ran] == [
            (16, 1), (4, 2), (2, 1), (2, 2), (4, 1), (16, 2)]  # fmt: skip
        assert here.sweep("lora.r=2,4,16", "train.max_steps=1,2", asked) == []

    @pytest.mark.slow
    def test_fewer_trials_begin_with_them(self, here, capsys):
        asked = "hydra.sweeper.first=[{lora.r:16}]"
        here.sweep("lora.r=2,4,16", asked, "hydra.sweeper.dry_run=true", n_trials=2)
        said = capsys.readouterr().out.splitlines()
        head = next(number for number, line in enumerate(said) if line.startswith("lora.r"))
        assert [line.split()[0] for line in said[head + 1 : head + 3]] == ["16", "2"]
        assert ranks(here.sweep("lora.r=2,4,16", asked, n_trials=2)) == [16, 2]


@pytest.mark.slow
class TestSearch:
    def test_parts_are_completed_by_the_grids_turn_and_the_sampler(self, here):
        ran = points(here.sweep("lora.r=2,8", RATE, FIRST, n_trials=6))
        assert ran[:2] == [(8, 3e-3), (2, 1e-2)]
        assert ran[2][0] == 8
        assert sorted(rank for rank, _ in ran) == [2, 2, 2, 8, 8, 8]
        assert len({rate for _, rate in ran}) == 6

    @pytest.mark.parametrize("killed_at", [0, 2])
    def test_a_study_that_is_killed_has_each_once(self, here, killed_at):
        def act(config: Config) -> Outcome:
            if len(here.ran) > killed_at:
                raise KeyboardInterrupt
            return trains(config)

        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=2,8", RATE, FIRST, n_trials=5, act=act)
        here.sweep("lora.r=2,8", RATE, FIRST, n_trials=5)
        found = [(trial.params["lora.r"], trial.params["train.learning_rate"]) for trial in here.trials()]
        assert found[:2] == [(8, 3e-3), (2, 1e-2)]
        assert len(found) == len(set(found)) == 5
        assert here.sweep("lora.r=2,8", RATE, FIRST, n_trials=5) == []

    def test_one_that_failed_is_tried_again_and_the_others_are_not(self, here):
        asked = "hydra.sweeper.first=[{lora.r:8,train.learning_rate:3e-3},{lora.r:2,train.learning_rate:1e-2}]"
        with pytest.raises(Exception, match="1 of 3 trials failed"):
            here.sweep("lora.r=2,8,4", RATE, asked, n_trials=3, act=fails_at(8))
        assert points(here.sweep("lora.r=2,8,4", RATE, asked, n_trials=3)) == [(8, 3e-3)]

    def test_a_study_that_has_had_its_trials_says_that_they_were_not_tried(self, here, capsys):
        here.sweep("lora.r=2,8", RATE, n_trials=2)
        assert here.sweep("lora.r=2,8", RATE, FIRST.replace(",{lora.r:8}]", "]"), n_trials=2) == []
        assert "2 of the points in hydra.sweeper.first were not tried" in capsys.readouterr().out
        assert points(here.sweep("lora.r=2,8", RATE, FIRST, n_trials=3)) == [(8, 3e-3)]

    @pytest.mark.parametrize("sampler", ["qmc", "cmaes", "gp"])
    def test_every_sampler_goes_on_behind_them(self, here, sampler):
        rates = [RATE, "train.weight_decay=interval(0,1)"]
        asked = "hydra.sweeper.first=[{train.weight_decay:0.5},{train.learning_rate:1e-2},{lora.r:8}]"
        ran = here.sweep("lora.r=2,8", *rates, f"hydra/sweeper/sampler={sampler}", asked, n_trials=8)
        assert [ran[0].train.weight_decay, ran[1].train.learning_rate, ran[2].lora.r] == [0.5, 1e-2, 8]
        assert len({config.train.learning_rate for config in ran}) == 8


class TestBadPoints:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (
                ["lora.r=2,4", "hydra.sweeper.first=[{lora.r:3},{lora.rr:2}]"],
                "(?s)must be one of 2, 4, but is 3.*lora.rr",
            ),
            (["lora.r=2,4", "hydra.sweeper.first=[{lora.r:2},{lora.r:4}]"], "no more points than there are trials, 1"),
            (
                ["lora.r=2,4", "train.warmup_ratio=0,0.0", "hydra.sweeper.first=[{lora.r:2},{lora.r:2}]"],
                "point 2 is point 1 again",
            ),
        ],
    )
    def test_nothing_is_started(self, here, overrides, message):
        with pytest.raises(UsageError, match=message):
            here.sweep(*overrides, n_trials=1)
        assert here.ran == []

    @pytest.mark.slow
    def test_a_point_whose_runs_are_another_ones(self, here):
        alike = ["train.save_steps=10,20", "lora.r=2,4"]
        with pytest.raises(UsageError, match="the runs of point 2 are those of another point"):
            here.sweep(*alike, "hydra.sweeper.first=[{lora.r:4},{train.save_steps:20}]")
        assert ranks(here.sweep(*alike, "hydra.sweeper.first=[{lora.r:4}]")) == [4, 2]
