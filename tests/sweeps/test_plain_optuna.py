"""A study through the sweeper, and the same study written with Optuna alone, draw the same trials to the last bit."""

import hashlib
import math
import time
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from lowrung.config.schema import Config
from lowrung.runs import task
from lowrung.store import mailbox
from lowrung.store.outcome import Outcome, Status

SEED, TRIALS, BAD = 3, 12, 60.0
SPACE = ["lora.r=4,8", "train.learning_rate=tag(log,interval(1e-5,1e-1))", "train.max_steps=int(interval(1,16))"]
DISTRIBUTIONS = {
    "lora.r": CategoricalDistribution((4, 8)),
    "train.learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
    "train.max_steps": IntDistribution(1, 16),
}


def branin(params: Mapping[str, Any]) -> float:
    """Branin's function (Dixon and Szegö, 1978) of the rate's logarithm and the steps; worse at rank 4."""
    x: float = -5 + 15 * (math.log10(params["train.learning_rate"]) + 5) / 4
    y = float(params["train.max_steps"] - 1)
    curve: float = (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
    return curve + 8 / float(params["lora.r"]) + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def evaluations(value: float) -> list[float]:
    """What a run reports on its way; one that begins badly is pruned at its first evaluation."""
    return [value + 9] if value > BAD else [value + 9, value + 3]


def trains(config: Config) -> Outcome:
    """A stub of the run."""
    rate, steps = config.train.learning_rate, config.train.max_steps
    value = branin({"lora.r": config.lora.r, "train.learning_rate": rate, "train.max_steps": steps})
    assignment = task.assigned()
    assert assignment is not None
    reports = evaluations(value)
    for step, reported in enumerate(reports, start=1):
        metrics = {"eval/loss": reported, "train/tokens": 100.0 * step}
        mailbox.post(assignment.folder.path, {"step": step, "time": time.time(), "metrics": metrics})
    metrics = {"base/eval_loss": 9.0, "eval/loss": value, "params/trainable": 1.0}
    is_bad = len(reports) == 1
    return Outcome(Status.PRUNED if is_bad else Status.COMPLETE, metrics, cause="bad" if is_bad else None)


def sampler(name: str, number: int) -> BaseSampler:
    """With the seed of one trial: the first four bytes of a hash of the study's seed and the trial's number."""
    seed = int.from_bytes(hashlib.sha256(f"{SEED}/{number}".encode()).digest()[:4])
    match name:
        case "tpe":
            return TPESampler(seed=seed, constant_liar=True, n_startup_trials=4)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=4)
        case _:
            return RandomSampler(seed=seed)


def plain(name: str) -> list[optuna.trial.FrozenTrial]:
    """The study in Optuna alone; the values of the list take turns."""
    study = optuna.create_study(direction="minimize")
    for number in range(TRIALS):
        study.sampler = PartialFixedSampler({"lora.r": (4, 8)[number % 2]}, sampler(name, number))
        trial = study.ask(fixed_distributions=DISTRIBUTIONS)
        value = branin(trial.params)
        for step, reported in enumerate(evaluations(value), start=1):
            trial.report(reported, step)
        if value > BAD:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
    return study.trials


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("name", "setting"),
    [("tpe", "n_startup_trials=4"), ("random", "name=random"), ("nsga2", "population_size=4")],
)
def test_the_same_trials_are_drawn(here, name, setting):
    settings = [f"hydra/sweeper/sampler={name}", f"hydra.sweeper.sampler.{setting}", f"seed={SEED}"]
    here.sweep(*SPACE, *settings, n_trials=TRIALS, act=trains)
    expected = plain(name)
    assert [trial.params for trial in here.trials()] == [trial.params for trial in expected]
    assert [trial.value for trial in here.trials()] == [trial.value for trial in expected]
    assert [trial.intermediate_values for trial in here.trials()] == [trial.intermediate_values for trial in expected]
    assert {trial.state for trial in expected} == {TrialState.COMPLETE, TrialState.PRUNED}
