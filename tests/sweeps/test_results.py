"""What a sweep has found: what it returns, and its best trial within constraints."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from lowrung.config.schema import Config
from lowrung.errors import UsageError
from lowrung.report import leaderboard
from lowrung.store.outcome import Outcome, Status
from tests.stage import RATE, Stage, by_seed, trains


@pytest.mark.slow
def test_a_sweep_returns_its_trials_best_first(here: Stage) -> None:
    here.sweep("lora.r=4,8", "seed=0,1")
    results = here.results
    assert results is not None
    best, second = results.trials
    assert (results.best, best.number, second.number) == (best, 1, 0)
    assert (best.point, best.outcome.status) == ({"lora.r": "8"}, Status.COMPLETE)
    assert best.outcome.metrics["eval/loss"] < second.outcome.metrics["eval/loss"]
    assert [run.seed for run in best.seeds] == [0, 1]
    assert all((Path(run.folder) / "outcome.json").is_file() for run in best.seeds)
    assert results.folder.leaderboard.is_file()
    assert results.objectives == {"eval/loss": "minimize"}


def test_a_dry_run_returns_no_trials_but_where_they_would_be(here: Stage) -> None:
    here.sweep("lora.r=4", "study=mine", "hydra.sweeper.dry_run=true")
    results = here.results
    assert results is not None
    assert (results.trials, results.best, results.objectives) == ([], None, {"eval/loss": "minimize"})
    assert results.folder.path == Path("multirun/mine").absolute()
    assert leaderboard.render(results.trials, results.objectives).startswith("#  trial")


class TestConstraints:
    SMALL = 'hydra.sweeper.constraints={params/trainable:"<=400"}'

    @pytest.mark.slow
    def test_the_best_keeps_to_them(self, here, capsys):
        here.sweep("lora.r=2,4,8", self.SMALL)
        best, second, broken = json.loads(here.study.leaderboard.read_text())
        assert [row["point"]["lora.r"] for row in (best, second, broken)] == ["4", "2", "8"]
        assert broken["broken"] == ["params/trainable <= 400"]
        assert "not params/trainable <= 400" in capsys.readouterr().out
        (parent,) = (run for run in here.tracker.runs.values() if not run.parent)
        assert parent.tags["lowrung.best_trial"] == "1"

    @pytest.mark.slow
    def test_the_sampler_learns_of_them(self, here):
        here.sweep("lora.r=4,8", RATE, self.SMALL, n_trials=4)
        assert [(trial.params["lora.r"], trial.constraints) for trial in here.trials()] == [
            (r, {"params/trainable <= 400": 100 * r - 400}) for r in (4, 8, 4, 8)
        ]

    @pytest.mark.slow
    def test_other_ones_are_another_search(self, here):
        here.sweep("lora.r=4,8", self.SMALL)
        with pytest.raises(UsageError, match=r"params/trainable was <=400, and is not searched now"):
            here.sweep("lora.r=4,8")


class TestOverSeeds:
    @pytest.mark.slow
    def test_the_worst_seed_can_be_what_counts(self, here, capsys):
        act = by_seed(0.0, 0.3, 0.9)
        here.sweep("lora.r=8", "seed=0,1,2", "hydra.sweeper.over_seeds=worst", act=act)
        worst = max(run["metrics"]["eval/loss"] for run in json.loads(here.study.leaderboard.read_text())[0]["runs"])
        assert here.trials()[0].value == worst
        assert here.results.best.outcome.metrics["eval/loss"] == worst
        assert "eval loss (worst)" in capsys.readouterr().out
        with pytest.raises(UsageError, match=r"hydra\.sweeper\.over_seeds was worst, and is median now"):
            here.sweep("lora.r=8", "seed=0,1,2", "hydra.sweeper.over_seeds=median", act=act)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (["hydra.sweeper.over_seeds=max"], r"over_seeds must be one of mean, median, worst, but is 'max'"),
            (
                ["hydra.sweeper.over_seeds=worst", 'hydra.sweeper.constraints={eval/loss:">=1"}'],
                r"needs one direction for each metric, but eval/loss is to minimize and is limited by >=\. Take mean",
            ),
        ],
    )
    def test_what_has_no_meaning(self, here, settings, message):
        with pytest.raises(UsageError, match=message):
            here.sweep("lora.r=8", "seed=0,1", *settings)


@pytest.mark.slow
def test_a_metric_that_is_not_finite_wins_nothing(here):
    """Also of the trial that ends first."""

    def act(config: Config) -> Outcome:
        trained = trains(config)
        value = {2: math.nan, 4: 2.0, 8: math.inf}[config.lora.r]
        return dataclasses.replace(trained, metrics={**trained.metrics, "eval/perplexity": value})

    mine = "hydra.sweeper.objectives={eval/perplexity:minimize}"
    here.sweep("lora.r=2,4,8", mine, act=act)
    assert here.results.best.point == {"lora.r": "4"}
    here.sweep("lora.r=2", "study=none", mine, act=act)
    assert here.results.best is None
    tagged = ["lowrung.best_trial" in run.tags for run in here.tracker.runs.values() if not run.parent]
    assert tagged == [True, False]


@pytest.mark.slow
def test_the_best_of_several_objectives_is_the_first_of_the_pareto_set(here, capsys):
    goal = "hydra.sweeper.objectives={params/trainable:minimize,eval/loss:minimize}"
    here.sweep("lora.r=16,2,4,8", goal)
    assert [trial.point["lora.r"] for trial in here.results.trials] == ["2", "4", "8", "16"]
    assert here.results.best == here.results.trials[0]
    assert capsys.readouterr().out.count("Pareto") == 3
