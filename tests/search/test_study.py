"""The study against Optuna itself, in a real database."""

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from lowrung.errors import UsageError
from lowrung.search.space import parse
from lowrung.search.study import Study
from lowrung.store.outcome import Outcome, Status
from tests.search.conftest import MIXED

STATES = {
    Status.COMPLETE: TrialState.COMPLETE,
    Status.PRUNED: TrialState.PRUNED,
    Status.SKIPPED: TrialState.PRUNED,
    Status.DIVERGED: TrialState.FAIL,
    Status.OOM: TrialState.FAIL,
    Status.FAILED: TrialState.FAIL,
    Status.CANCELLED: TrialState.FAIL,
}


def complete(loss: float) -> Outcome:
    return Outcome(Status.COMPLETE, {"eval/loss": loss})


def rates(study: Study) -> list[float]:
    return [trial.params["train.learning_rate"] for trial in study.trials]


def search(study: Study, trials: int) -> None:
    """Trials with a loss that is least at a rate of 1e-3, so that TPE has something to find."""
    for _ in range(trials):
        number = len(study.trials)
        trial = study.ask({"lora.r": (4, 8)[number % 2]})
        study.tell(trial, complete(abs(trial.params["train.learning_rate"] - 1e-3)))


class TestAsk:
    def test_what_is_fixed_is_fixed_and_the_rest_is_drawn(self, opened):
        study = opened()
        for rank in (8, 4, 8):
            trial = study.ask({"lora.r": rank})
            assert trial.params.keys() == {"lora.r", "train.learning_rate"}
            assert trial.params["lora.r"] == rank
            assert 1e-5 <= trial.params["train.learning_rate"] <= 1e-1
        assert [trial.number for trial in study.trials] == [0, 1, 2]
        assert len(set(rates(study))) == 3

    def test_a_pure_grid_asks_for_exactly_what_it_is_given(self, opened):
        overrides = ("lora.r=4,8", "lora=default,rslora", "x=null,true", "t=[q_proj],[v_proj]")
        study = opened(*overrides)
        grid = parse(overrides, OverridesParser.create()).grid()
        assert len(grid) == 16
        for params in grid:
            assert study.ask(params).params == params

    def test_no_axis_is_a_trial_too(self, opened):
        assert opened("seed=3").ask({}).params == {}

    @pytest.mark.slow
    def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(self, opened):
        whole = opened(name="whole")
        search(whole, 14)
        for count in (3, 8, 3):  # TPE draws at random for ten trials, then from what it learnt
            search(opened(name="parts"), count)
        assert rates(opened(name="parts")) == rates(whole)
        assert len(set(rates(whole))) == 14

    def test_another_seed_draws_otherwise(self, opened):
        studies = [opened(seed=seed, name=f"seed {seed}") for seed in (0, 1)]
        for study in studies:
            search(study, 3)
        assert set(rates(studies[0])).isdisjoint(rates(studies[1]))


class TestTell:
    @pytest.mark.parametrize(("status", "state"), STATES.items())
    def test_each_status_has_its_state_and_keeps_its_name(self, opened, status, state):
        study = opened()
        study.tell(study.ask({"lora.r": 4}), Outcome(status, {"eval/loss": 2.5}, cause="because"))
        (trial,) = opened().trials
        assert trial.state is state
        assert trial.user_attrs == {"status": str(status), "cause": "because"}
        assert trial.values == ([2.5] if status is Status.COMPLETE else None)

    def test_every_status_is_looked_at(self):
        assert set(STATES) == set(Status)

    def test_a_second_end_is_an_error(self, opened):
        study = opened()
        trial = study.ask({"lora.r": 4})
        study.tell(trial, complete(1.0))
        with pytest.raises(UpdateFinishedTrialError):
            study.tell(trial, Outcome(Status.FAILED, cause="late"))
        assert study.trials[0].values == [1.0]
        assert study.trials[0].user_attrs["status"] == "complete"

    def test_a_complete_run_without_its_score_is_a_failure_to_the_search(self, opened):
        objectives = {"eval/loss": "minimize", "eval/perplexity": "minimize"}
        study = opened(objectives=objectives)
        study.tell(study.ask({"lora.r": 4}), complete(800.0))  # exp(800) is not finite and was left out
        assert study.trials[0].state is TrialState.FAIL
        assert study.trials[0].user_attrs["status"] == "complete"

    def test_objectives_keep_their_order_and_direction(self, opened, database):
        objectives = {"eval/exact_match": "maximize", "params/trainable": "minimize"}
        study = opened(objectives=objectives)
        outcome = Outcome(Status.COMPLETE, {"params/trainable": 10, "eval/exact_match": 0.5, "eval/loss": 1.0})
        study.tell(study.ask({"lora.r": 4}), outcome)
        assert study.trials[0].values == [0.5, 10]
        found = optuna.load_study(study_name=study.name, storage=f"sqlite:///{database}")
        assert [direction.name for direction in found.directions] == ["MAXIMIZE", "MINIMIZE"]
        assert found.metric_names == list(objectives)


class TestInterrupted:
    def test_a_running_trial_goes_on_under_its_number_with_its_values(self, opened):
        study = opened()
        search(study, 2)
        asked = study.ask({"lora.r": 8})
        asked.set_user_attr("tracked", "run7")
        again = opened()
        (adopted,) = again.interrupted()
        assert (adopted.number, adopted.params) == (2, asked.params)
        assert adopted.user_attrs["tracked"] == "run7"
        again.tell(adopted, complete(0.25))
        assert again.trials[2].values == [0.25]
        assert again.interrupted() == []
        assert len(again.trials) == 3

    def test_they_come_by_number(self, opened):
        study = opened()
        for rank in (8, 4, 8):
            study.ask({"lora.r": rank})
        study.tell(study.interrupted()[1], complete(1.0))
        assert [trial.number for trial in opened().interrupted()] == [0, 2]

    def test_one_that_was_never_asked_to_the_end_has_failed(self, opened, database):
        name = opened().name
        torn = optuna.load_study(
            study_name=name, storage=f"sqlite:///{database}"
        ).ask()  # killed between its two values
        torn.suggest_categorical("lora.r", (4, 8))
        study = opened()
        assert study.interrupted() == []
        assert study.trials[0].state is TrialState.FAIL


class TestReopening:
    def test_facts_are_kept(self, opened):
        opened().note("tracked", "run1")
        assert opened().facts["tracked"] == "run1"

    def test_the_order_of_a_list_does_not_matter(self, opened):
        search(opened(), 1)
        study = opened("lora.r=8,4", MIXED[1])
        search(study, 1)
        assert len(study.trials) == 2

    @pytest.mark.parametrize(
        "overrides", [("lora.r=4,8,16", MIXED[1]), ("lora.r=4,8",), (*MIXED, "lora.dropout=0,0.1")]
    )
    def test_another_space_is_refused_by_name(self, opened, overrides):
        opened(name="mine")
        with pytest.raises(UsageError, match=r"study must name .* mine' was made for another:"):
            opened(*overrides, name="mine")
        opened(*overrides, name="other")

    @pytest.mark.parametrize(
        "objectives", [{"eval/loss": "maximize"}, {"eval/loss": "minimize", "adapter/bytes": "minimize"}]
    )
    def test_other_objectives_are_refused(self, opened, objectives):
        opened()
        with pytest.raises(
            UsageError,
            match=r"eval/loss was minimize, and is maximize now|adapter/bytes is minimize now, and was not searched",
        ):
            opened(objectives=objectives)
