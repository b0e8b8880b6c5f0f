"""What a sampler and a pruner are shown where a study has stages or several spaces."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lowrung.search.space import Space, parse
from lowrung.search.union import Union
from lowrung.store.outcome import Outcome, Status

RATE = "train.learning_rate=tag(log,interval(1e-5,1e-1))"

PRUNERS = [
    {"name": "median", "n_startup_trials": 1, "n_warmup": 0},
    {"name": "asha", "min_resource": 1, "reduction_factor": 2},
    {"name": "hyperband", "min_resource": 1, "reduction_factor": 2},
]


def space_of(*overrides: str) -> Space:
    return parse(overrides, OverridesParser.create())


def tell(study, trial, loss):
    study.tell(trial, Outcome(Status.COMPLETE, {"eval/loss": loss}))


@pytest.mark.slow
@pytest.mark.parametrize("pruner", PRUNERS, ids=[str(pruner["name"]) for pruner in PRUNERS])
def test_a_pruner_compares_trials_of_the_same_stage(opened, pruner):
    """Worse than all of the first stage, and still not pruned in the second, where it is the best."""
    study, space = opened(RATE, pruner=pruner), space_of(RATE)
    for loss in (1.0, 1.1, 1.2):
        trial = study.ask({}, space=space, stage="first")
        for tokens in (100, 200, 400):
            study.judge.report(trial, tokens, {"eval/loss": loss})
        tell(study, trial, loss)
    other = study.ask({}, space=space, stage="second")
    assert not any(study.judge.report(other, tokens, {"eval/loss": 5.0}) for tokens in (100, 200, 400))
    assert any(
        study.judge.report(worse, tokens, {"eval/loss": 9.0})
        for worse in [study.ask({}, space=space, stage="first") for _ in range(6)]
        for tokens in (100, 200, 400)
    )


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_sampler_learns_from_trials_of_the_same_stage_that_search_the_same(opened, sampler):
    """Whatever the others found, it draws the same."""
    settings = {"name": sampler, **({"n_startup_trials": 2} if sampler == "tpe" else {"population_size": 2})}
    one, other = (
        space_of("lora=default", RATE),
        space_of("lora=full", "train.learning_rate=tag(log,interval(1e-6,1e-2))"),
    )
    union = Union.of([one, other])
    one, other = union.joined(one), union.joined(other)

    def drawn(name: str, sign: int) -> list[float]:
        study = opened(RATE, name=name, sampler=settings)
        for _ in range(2):
            for space, stage in ((one, "first"), (other, "second")):
                trial = study.ask(space.grid()[0], space=space, stage=stage)
                tell(study, trial, sign * trial.params["train.learning_rate"])
        found = []
        for _ in range(3):
            trial = study.ask(one.grid()[0], space=one, stage="second")
            found.append(trial.params["train.learning_rate"])
            tell(study, trial, found[-1])
        return found

    assert drawn("up", 1) == drawn("down", -1)


@pytest.mark.slow
def test_wilcoxon_takes_the_best_of_the_stage(opened):
    study = opened(RATE, pruner={"name": "wilcoxon", "p_threshold": 0.3, "n_startup_seeds": 2})
    space = space_of(RATE)
    for stage, loss in (("first", 1.0), ("second", 5.0)):
        trial = study.ask({}, space=space, stage=stage)
        for seed in range(1, 6):
            study.judge.report_seed(trial, seed, {"eval/loss": loss + seed / 100})
        tell(study, trial, loss)
    trial = study.ask({}, space=space, stage="second")
    assert not any(study.judge.report_seed(trial, seed, {"eval/loss": 4.9 + seed / 100}) for seed in range(1, 6))
    trial = study.ask({}, space=space, stage="first")
    assert any(study.judge.report_seed(trial, seed, {"eval/loss": 4.9 + seed / 100}) for seed in range(1, 6))
