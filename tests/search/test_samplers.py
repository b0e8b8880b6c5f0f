"""Each sampler in real studies on disk: it goes on where it was, and draws only what is open."""

import importlib.util
import sys
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lowrung.errors import UsageError
from lowrung.search import samplers
from lowrung.search.space import parse
from lowrung.search.study import Study
from lowrung.store.outcome import Outcome, Status
from tests.search.conftest import LOSS

SPACE = (
    "lora.r=4,8",
    "train.learning_rate=tag(log,interval(1e-5,1e-1))",
    "lora.dropout=interval(0,0.5)",
    "train.warmup_steps=int(interval(0,1000))",
)
TWO = {"eval/loss": "minimize", "eval/token_accuracy": "maximize"}
needs_cmaes = pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="cmaes is not installed")

SETTINGS = [
    pytest.param({"name": "tpe", "n_startup_trials": 3, "multivariate": None}, id="tpe"),
    pytest.param({"name": "tpe", "n_startup_trials": 3, "multivariate": False}, id="tpe, each setting alone"),
    pytest.param({"name": "random"}, id="random"),
    pytest.param({"name": "qmc", "qmc_type": "sobol"}, id="sobol"),
    pytest.param({"name": "qmc", "qmc_type": "halton"}, id="halton"),
    pytest.param(
        {"name": "cmaes", "n_startup_trials": 1, "popsize": 4, "consider_pruned_trials": True},
        id="cmaes",
        marks=needs_cmaes,
    ),
    pytest.param({"name": "nsga2", "population_size": 4}, id="nsga2"),
    pytest.param({"name": "gp", "n_startup_trials": 3}, id="gp", marks=pytest.mark.slow),  # a second a draw
]
"""With few trials before it learns, and generations of few."""


def search(study: Study, trials: int) -> None:
    """Trials whose loss is least at little dropout and a rate of 1e-3."""
    for _ in range(trials):
        rank = (4, 8)[len(study.trials) % 2]
        trial = study.ask({"lora.r": rank})
        assert trial.params["lora.r"] == rank
        loss = abs(trial.params["train.learning_rate"] - 1e-3) + trial.params["lora.dropout"]
        study.tell(trial, Outcome(Status.COMPLETE, {"eval/loss": loss, "eval/token_accuracy": 1 - loss / 2}))


def points(study: Study) -> list[tuple[Any, ...]]:
    return [tuple(trial.params[key] for key in sorted(trial.params)) for trial in study.trials]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
class TestEach:
    def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(self, opened, settings):
        part = 4 if settings["name"] == "gp" else 6
        whole = opened(*SPACE, name="whole", sampler=settings)
        search(whole, 2 * part)
        for _ in range(2):
            search(opened(*SPACE, name="parts", sampler=settings), part)
        assert points(opened(*SPACE, name="parts")) == points(whole)
        assert len(set(points(whole))) == 2 * part

    def test_another_seed_draws_otherwise(self, opened, settings):
        studies = [opened(*SPACE, seed=seed, name=f"seed {seed}", sampler=settings) for seed in (0, 1)]
        for study in studies:
            search(study, 4)
        assert set(points(studies[0])).isdisjoint(points(studies[1]))

    def test_trials_that_run_at_the_same_time_are_at_different_points(self, opened, settings):
        study = opened(*SPACE, sampler=settings)
        search(study, 4)
        for _ in range(4):
            study.ask({"lora.r": 4})
        assert len(set(points(study))) == 8

    def test_one_interval_is_enough(self, opened, settings):
        study = opened("train.learning_rate=interval(0.1,1)", sampler=settings)
        for _ in range(6):
            trial = study.ask({})
            study.tell(trial, Outcome(Status.COMPLETE, {"eval/loss": abs(trial.params["train.learning_rate"] - 0.3)}))
        assert len(set(points(study))) == 6

    def test_trials_that_failed_or_were_pruned_do_not_stop_it(self, opened, settings):
        study = opened(*SPACE, sampler=settings)
        for status in (Status.FAILED, Status.PRUNED, Status.DIVERGED):
            study.tell(study.ask({"lora.r": 4}), Outcome(status))
        search(study, 6)
        assert len(set(points(study))) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tpe", "random", "qmc", "nsga2", "gp"])
def test_several_objectives(opened, name):
    startup = {"n_startup_trials": 3} if name in ("tpe", "gp") else {}
    study = opened(*SPACE, objectives=TWO, sampler={"name": name, **startup})
    search(study, 6)
    assert len(set(points(study))) == 6
    assert all(len(trial.values) == 2 for trial in study.trials)


@pytest.mark.slow
def test_a_quasi_random_sequence_has_one_point_in_each_sixteenth_also_after_a_restart(opened):
    sampler = {"name": "qmc", "qmc_type": "sobol"}
    for count in (6, 11):
        search(opened(*SPACE, sampler=sampler), count)
    drawn = [trial.params["lora.dropout"] for trial in opened(*SPACE).trials[1:]]  # the first one is drawn at random
    assert sorted(int(dropout / 0.5 * 16) for dropout in drawn) == list(range(16))


@needs_cmaes
@pytest.mark.slow
def test_cmaes_closes_in(opened):
    study = opened(*SPACE, sampler={"name": "cmaes", "popsize": 4})
    search(study, 40)
    dropouts = [trial.params["lora.dropout"] for trial in study.trials]
    assert sum(dropouts[-10:]) < sum(dropouts[:10]) / 2


@pytest.mark.slow
def test_samplers_learn_each_in_its_own_way(opened):
    drawn = []
    for name, settings in {
        "tpe": {"n_startup_trials": 3},
        "random": {},
        "nsga2": {"population_size": 3},
        "gp": {"n_startup_trials": 3},
    }.items():
        study = opened(*SPACE, name=name, sampler={"name": name, **settings})
        search(study, 4)
        drawn.append(points(study))
    assert len({tuple(each[:3]) for each in drawn}) == 1  # at random, of the same seeds
    assert len({each[3] for each in drawn}) == 4


class TestProblems:
    @staticmethod
    def problems(settings: dict[str, Any], objectives: dict[str, str] = LOSS, overrides: tuple[str, ...] = SPACE):
        return samplers.problems(settings, objectives, parse(overrides, OverridesParser.create()))

    @pytest.mark.parametrize("settings", SETTINGS)
    def test_nothing_is_wrong(self, settings):
        assert self.problems(settings) == []

    def test_the_default_may_have_nothing_to_draw(self):
        assert self.problems({"name": "tpe"}, overrides=("lora.r=4,8",)) == []

    def test_any_other_was_asked_for_in_vain(self):
        (problem,) = self.problems({"name": "random"}, overrides=("lora.r=4,8",))
        assert problem.startswith("hydra/sweeper/sampler=random must have an interval to draw from, but all that is")

    def test_an_unknown_name(self):
        (problem,) = self.problems({"name": "brute"})
        assert problem == (
            "hydra/sweeper/sampler must be one of tpe, random, grid, qmc, cmaes, nsga2, gp, but its name is 'brute'."
        )

    @needs_cmaes
    def test_cmaes_has_one_objective(self):
        (problem,) = self.problems({"name": "cmaes"}, TWO)
        assert "must have one objective, but got 2: eval/loss, eval/token_accuracy." in problem

    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            (
                {"name": "tpe", "n_startup_trials": -1},
                "hydra.sweeper.sampler.n_startup_trials must be at least 0, but is -1.",
            ),
            (
                {"name": "nsga2", "population_size": 1},
                "hydra.sweeper.sampler.population_size must be at least 2, but is 1.",
            ),
            ({"name": "qmc", "qmc_type": "x"}, "hydra.sweeper.sampler.qmc_type must be sobol or halton, but is 'x'."),
        ],
    )
    def test_ranges(self, settings, problem):
        assert self.problems(settings) == [problem]

    @pytest.mark.parametrize(
        ("name", "package"), [("cmaes", "cmaes"), ("gp", "scipy"), ("gp", "torch"), ("qmc", "scipy")]
    )
    def test_a_missing_package_is_named_with_the_remedy(self, opened, monkeypatch, name, package):
        monkeypatch.setitem(sys.modules, package, None)
        (problem,) = self.problems({"name": name})
        assert problem.startswith(
            f"hydra/sweeper/sampler={name} needs {package}, which is not installed. Run `.venv/bin/pip"
        )
        study = opened(*SPACE, sampler={"name": name})
        with pytest.raises(UsageError, match=rf"needs {package}.*'\.\[samplers\]'"):
            study.ask({"lora.r": 4})
        assert study.trials == []

    def test_all_packages_that_are_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "scipy", None)
        monkeypatch.setitem(sys.modules, "torch", None)
        (problem,) = self.problems({"name": "gp"})
        assert "needs scipy and torch, which are not installed." in problem
