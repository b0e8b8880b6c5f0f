"""A study that learns from an earlier one, against Optuna's own `add_trial`."""

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from lowrung.errors import UsageError
from lowrung.search import samplers
from lowrung.search.space import parse
from lowrung.search.study import Study
from lowrung.search.warm_start import Earlier, absent
from lowrung.store.outcome import Outcome, Status
from tests.search.conftest import LOSS, MIXED

TPE = {"name": "tpe", "n_startup_trials": 3}


def search(study: Study, trials: int) -> list[float]:
    """The rates that were drawn; those about 1e-3 are best."""
    drawn = []
    for _ in range(trials):
        trial = study.ask({"lora.r": (4, 8)[len(study.trials) % 2]})
        drawn.append(trial.params["train.learning_rate"])
        study.tell(trial, Outcome(Status.COMPLETE, {"eval/loss": abs(drawn[-1] - 1e-3)}))
    return drawn


def earlier(study: Study, database: object) -> Earlier:
    return Earlier.load(study.name, f"sqlite:///{database}")


@pytest.mark.slow
def test_the_draws_are_those_of_a_plain_study_to_which_the_trials_were_added(opened, database):
    search(opened(name="earlier"), 6)
    found = earlier(opened(name="earlier"), database)
    drawn = search(opened(name="taught", sampler=TPE, earlier=found), 5)

    distributions = parse(MIXED, OverridesParser.create()).distributions()
    plain = optuna.create_study(direction="minimize")
    plain.add_trials(found.trials)
    expected = []
    for number in range(5):
        plain.sampler = optuna.samplers.PartialFixedSampler(
            {"lora.r": (4, 8)[number % 2]}, samplers.make(TPE, seed=0, trial_number=number)
        )
        trial = plain.ask(fixed_distributions=distributions)
        expected.append(trial.params["train.learning_rate"])
        plain.tell(trial, abs(expected[-1] - 1e-3))
    assert drawn == expected
    assert drawn != search(opened(name="untaught", sampler=TPE), 5)


@pytest.mark.slow
def test_a_study_that_goes_on_is_taught_by_the_same_trials(opened, database):
    search(opened(name="earlier"), 4)
    found = earlier(opened(name="earlier"), database)
    whole = search(opened(name="whole", sampler=TPE, earlier=found), 4)
    parts = search(opened(name="parts", sampler=TPE, earlier=found), 2)
    search(opened(name="earlier"), 3)  # it goes on meanwhile
    again = opened(name="parts", sampler=TPE, earlier=earlier(opened(name="earlier"), database))
    assert parts + search(again, 2) == whole
    assert [trial.number for trial in again.trials] == [0, 1, 2, 3]


def test_what_is_not_there_or_has_nothing_to_teach(opened, database):
    study = opened(name="earlier")
    with pytest.raises(UsageError, match=r"must have a complete trial to learn from, but has none"):
        earlier(study, database)
    trial = study.ask({"lora.r": 4})
    study.tell(trial, Outcome(Status.DIVERGED, cause="so"))
    assert study.trials[0].state is TrialState.FAIL
    with pytest.raises(UsageError, match=r"but has none"):
        earlier(study, database)
    with pytest.raises(UsageError, match=r"must be the name of an earlier study, but is 'none': there are "):
        Earlier.load("none", f"sqlite:///{database}")
    assert (
        absent("a", []) == "hydra.sweeper.warm_start must be the name of an earlier study, but is 'a': there is none."
    )
    assert absent("a1", [f"a{i}" for i in range(2, 30)]).count(", ") == 12


@pytest.mark.parametrize(
    ("overrides", "named", "change"),
    [
        (("lora.r=4,16", MIXED[1]), {}, "lora.r was 4,8, and is 4,16 now"),
        ((MIXED[0], "train.learning_rate=interval(1e-5,1e-1)"), {}, "train.learning_rate was tag"),
        ((*MIXED, "lora.dropout=0,0.1"), {}, "lora.dropout is 0,0.1 now, and was not searched"),
        (MIXED, {"objectives": {"eval/loss": "maximize"}}, "eval/loss was minimize, and is maximize now"),
        (MIXED, {"constraints": {"params/trainable": "<=9"}}, "params/trainable is <=9 now"),
    ],
)
def test_another_space_or_goal_cannot_be_taught(opened, database, overrides, named, change):
    study = opened(name="earlier")
    study.tell(study.ask({"lora.r": 4}), Outcome(Status.COMPLETE, {"eval/loss": 1.0}))
    goal = {"objectives": LOSS, "constraints": {}, **named}
    (problem,) = earlier(study, database).problems({**parse(overrides, OverridesParser.create()).described(), **goal})
    assert change in problem
    assert (
        earlier(study, database).problems({**parse(MIXED, OverridesParser.create()).described(), "objectives": LOSS})
        == []
    )
