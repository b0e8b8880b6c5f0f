"""Each pruner in real studies on disk, with simulated runs: bad ones end early, the best one never."""

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise

import pytest
from optuna.trial import TrialState

from lowrung.search import pruning
from lowrung.search.pruning import Schedule
from lowrung.search.study import Study
from lowrung.store.outcome import Outcome, Status
from tests.search.conftest import LOSS

ASHA = {"name": "asha", "min_resource": 1, "reduction_factor": 3}
HYPERBAND = {"name": "hyperband", "min_resource": 1, "reduction_factor": 3}
MEDIAN = {"name": "median", "n_startup_trials": 3, "n_warmup": 0}
PERCENTILE = {"name": "percentile", "percentile": 25.0, "n_startup_trials": 3, "n_warmup": 0}
ALL = [pytest.param(settings, id=str(settings["name"])) for settings in (ASHA, HYPERBAND, MEDIAN, PERCENTILE)]

FINAL = (2.5, 2.3, 2.9, 2.1, 2.7, 2.0, 2.6, 2.2, 2.8, 2.05, 3.0, 2.65)
"""Final losses of twelve trials; the best one is the sixth."""
BEST = FINAL.index(min(FINAL))
EVALUATIONS = 9
EXAMPLE = 100
"""Tokens of an example."""
ACCURACY = {"eval/token_accuracy": "maximize"}
PERPLEXITY = {"eval/perplexity": "minimize"}


def metrics(final: float, tokens: int) -> dict[str, float]:
    """What a run measures: a loss that falls to its final value, and an accuracy that rises as it falls."""
    loss = final + 2 * math.exp(-tokens / 4_000)
    return {"eval/loss": loss, "eval/token_accuracy": 1 / loss, "eval/perplexity": math.exp(loss)}


def train(study: Study, final: float, batch: int = 8) -> int:
    """Runs a trial that evaluates every step to its end; returns how often it was evaluated."""
    trial = study.ask({"lora.r": 4})
    for step in range(1, EVALUATIONS + 1):
        tokens = step * batch * EXAMPLE
        if study.judge.report(trial, tokens, metrics(final, tokens)):
            study.tell(trial, Outcome(Status.PRUNED, metrics(final, tokens)))
            return step
    study.tell(trial, Outcome(Status.COMPLETE, metrics(final, tokens)))
    return EVALUATIONS


def sweep(study: Study, batches: Sequence[int] = (8,) * len(FINAL)) -> list[int]:
    return [train(study, final, batch) for final, batch in zip(FINAL, batches, strict=True)]


def states(study: Study) -> list[TrialState]:
    return [trial.state for trial in study.trials]


def reported(study: Study, number: int = 0) -> dict[int, float]:
    return study.trials[number].intermediate_values


@pytest.fixture(scope="module")
def swept() -> dict[str, list[int]]:
    """The evaluations of each pruner's sweep by the loss, which a test leaves for those after it."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("settings", ALL)
class TestEach:
    @pytest.mark.parametrize("objectives", [LOSS, ACCURACY, PERPLEXITY], ids=["loss", "accuracy", "perplexity"])
    def test_bad_trials_end_early_and_the_best_does_not(self, opened, swept, settings, objectives):
        study = opened(pruner=settings, objectives=objectives)
        evaluations = sweep(study)
        if objectives is LOSS:
            swept[settings["name"]] = evaluations
        assert states(study)[BEST] is TrialState.COMPLETE
        assert states(study)[10] is TrialState.PRUNED  # the worst
        assert sum(evaluations) < 0.8 * len(FINAL) * EVALUATIONS
        pruned = [final for final, state in zip(FINAL, states(study), strict=True) if state is TrialState.PRUNED]
        assert min(pruned) > min(FINAL)

    @pytest.mark.parametrize("first", [0, 2])
    def test_batch_sizes_may_differ(self, opened, settings, first):
        """Every trial is evaluated at other numbers of tokens; halving judges where all have been evaluated."""
        least = {"min_resource": 4} if "min_resource" in settings else {}
        batches = [(4, 8, 16)[(first + number) % 3] for number in range(len(FINAL))]
        study = opened(pruner={**settings, **least})
        evaluations = sweep(study, batches)
        assert states(study)[BEST] is TrialState.COMPLETE
        assert TrialState.PRUNED in states(study)
        assert sum(evaluations) < len(FINAL) * EVALUATIONS

    @pytest.mark.slow
    def test_a_coordinator_that_starts_anew_decides_alike(self, opened, swept, settings):
        evaluations = [train(opened(pruner=settings, name="parts 2"), final) for final in FINAL]
        if settings["name"] != "hyperband":  # which deals trials to brackets by the study's name
            assert evaluations == (swept.get(settings["name"]) or sweep(opened(pruner=settings, name="whole 9")))
        assert states(opened(name="parts 2"))[BEST] is TrialState.COMPLETE
        assert TrialState.PRUNED in states(opened(name="parts 2"))

    def test_two_objectives_prune_nothing(self, opened, settings):
        study = opened(pruner=settings, objectives={**LOSS, **ACCURACY})
        assert sweep(study) == [EVALUATIONS] * len(FINAL)
        assert "unit" not in study.facts


@pytest.mark.parametrize("objectives", [ACCURACY, PERPLEXITY], ids=["accuracy", "perplexity"])
def test_the_objective_is_judged_and_not_the_loss(opened, objectives):
    """The loss says the opposite, and an evaluation without the objective says nothing."""
    (name,) = objectives
    study = opened(pruner=ASHA, objectives=objectives)
    good, bad = (0.9, 0.1) if name == "eval/token_accuracy" else (2.0, 9.0)
    first, second, third = (study.ask({"lora.r": 4}) for _ in range(3))
    assert not study.judge.report(first, 100, {"eval/loss": 9.0, name: good})
    assert not study.judge.report(second, 100, {"eval/loss": 1.0})
    assert study.judge.report(second, 100, {"eval/loss": 1.0, name: bad})
    assert not study.judge.report(third, 100, {"eval/loss": 1.0, name: math.nan})


@pytest.mark.slow
def test_without_a_pruner_values_are_kept_all_the_same(opened):
    study = opened()
    assert sweep(study) == [EVALUATIONS] * len(FINAL)
    assert list(reported(study)) == list(range(1, EVALUATIONS + 1))


@pytest.mark.slow
class TestAsha:
    def test_whoever_is_behind_ends_at_the_first_rung(self, opened):
        study = opened(pruner=ASHA)
        evaluations = sweep(study)
        # Better than all before it: to the end. Best third of those before it: to the next rung. Else: one evaluation.
        assert evaluations == [9, 9, 1, 9, 1, 9, 1, 1, 1, 3, 1, 1]
        assert [len(reported(study, number)) for number in range(12)] == evaluations

    def test_the_first_rung_can_be_later(self, opened):
        assert set(sweep(opened(pruner={**ASHA, "min_resource": 4}))) == {4, 9}

    def test_a_larger_factor_prunes_more(self, opened):
        evaluations = [
            sweep(opened(pruner={**ASHA, "reduction_factor": factor}, name=f"{factor}")) for factor in (2, 6)
        ]
        assert sum(evaluations[0]) > sum(evaluations[1])


@pytest.mark.slow
def test_median_waits_for_its_startup_trials_and_its_warmup(opened):
    evaluations = sweep(opened(pruner={**MEDIAN, "n_startup_trials": 5, "n_warmup": 4}))
    assert evaluations[:5] == [EVALUATIONS] * 5
    assert set(evaluations) == {4, EVALUATIONS}


@pytest.mark.slow
@pytest.mark.slow
def test_a_smaller_percentile_prunes_more(opened):
    kept = [
        sweep(opened(pruner={**PERCENTILE, "percentile": percentile}, name=f"{percentile}")).count(EVALUATIONS)
        for percentile in (10, 50, 90)
    ]
    assert all(fewer < more for fewer, more in pairwise(kept))


@pytest.mark.slow
def test_hyperband_waits_for_one_complete_trial(opened):
    study = opened(pruner=HYPERBAND)
    going = [study.ask({"lora.r": 4}) for _ in range(6)]
    for step in range(1, EVALUATIONS + 1):
        for final, trial in zip(FINAL, going, strict=False):
            assert not study.judge.report(trial, step * 800, metrics(final, step * 800))
    study.tell(going[0], Outcome(Status.COMPLETE, metrics(FINAL[0], 7_200)))
    assert TrialState.PRUNED not in states(study)
    sweep(study)
    assert TrialState.PRUNED in states(study)


class TestUnits:
    @pytest.mark.parametrize(
        ("tokens", "expected"),
        [(800, 1), (799, 1), (720, 1), (719, 0), (400, 0), (1, 0), (1_200, 1), (1_600, 2), (1_590, 2), (8_000, 10)],
    )
    def test_whole_ones_with_a_tenth_of_slack(self, tokens, expected):
        assert pruning.units(tokens, 800) == expected

    @pytest.mark.slow
    def test_the_first_evaluation_of_the_study_sets_the_unit(self, opened):
        study = opened()
        train(study, 2.0, batch=8)
        assert opened().facts["unit"] == 800
        train(opened(), 2.0, batch=4)
        train(opened(), 2.0, batch=16)
        train(opened(), 2.0, batch=12)
        study = opened()
        assert list(reported(study, 1)) == [1, 2, 3, 4]
        assert list(reported(study, 2)) == list(range(2, 19, 2))
        assert list(reported(study, 3)) == [1, 3, 4, 6, 7, 9, 10, 12, 13]

    def test_a_value_stands_where_its_tokens_were_seen(self, opened):
        study = opened()
        train(study, 2.0, batch=8)
        train(study, 2.0, batch=4)
        at_two = metrics(2.0, 1_600)["eval/loss"]
        assert reported(study, 0)[2] == reported(study, 1)[2] == pytest.approx(at_two)


class TestReport:
    def test_again_changes_nothing_and_says_the_same(self, opened):
        study = opened(pruner=ASHA)
        train(study, 2.0)
        trial = study.ask({"lora.r": 4})
        assert study.judge.report(trial, 800, {"eval/loss": 4.0})
        (adopted,) = opened(pruner=ASHA).interrupted()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert opened(pruner=ASHA).judge.report(adopted, 800, {"eval/loss": 1.0})
        assert reported(study, 1) == {1: 4.0}

    def test_again_for_a_trial_that_may_go_on(self, opened):
        study = opened(pruner=ASHA)
        train(study, 2.0)
        trial = study.ask({"lora.r": 4})
        for tokens in (800, 1_600):
            assert not study.judge.report(trial, tokens, metrics(1.9, tokens))
        again = opened(pruner=ASHA)
        (adopted,) = again.interrupted()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for tokens in (800, 1_600):
                assert not again.judge.report(adopted, tokens, metrics(9.0, tokens))
        assert again.judge.report(adopted, 2_400, metrics(9.0, 2_400))
        assert list(reported(again, 1)) == [1, 2, 3]

    @pytest.mark.parametrize(
        ("tokens", "measured"),
        [(0, {"eval/loss": 4.0}), (800, {"train/loss": 4.0}), (800, {"eval/loss": math.nan}), (800, {})],
    )
    def test_what_is_no_evaluation_to_judge_by(self, opened, tokens, measured):
        study = opened(pruner=ASHA)
        assert not study.judge.report(study.ask({"lora.r": 4}), tokens, measured)
        assert reported(study) == {}
        assert "unit" not in study.facts

    def test_a_pruned_trial_keeps_its_last_value_and_its_name(self, opened):
        study = opened(pruner=ASHA)
        train(study, 2.0)
        assert train(study, 3.0) == 1
        assert study.trials[1].state is TrialState.PRUNED
        assert study.trials[1].user_attrs["status"] == "pruned"
        assert study.trials[1].values == [pytest.approx(metrics(3.0, 800)["eval/loss"])]


class TestProblems:
    @pytest.mark.parametrize("settings", ALL)
    def test_nothing_is_wrong(self, settings):
        assert pruning.problems(settings, LOSS, [Schedule(5, 20), Schedule(20, 20)]) == []

    def test_without_a_pruner_all_is_well(self):
        assert pruning.problems({"name": "none"}, {**LOSS, "adapter/bytes": "minimize"}, [Schedule(20, 20)]) == []

    def test_an_unknown_name(self):
        (problem,) = pruning.problems({"name": "sha"}, LOSS, [Schedule(5, 20)])
        assert problem == (
            "hydra/sweeper/pruner must be one of none, asha, hyperband, median, percentile, wilcoxon, but its name is"
            " 'sha'."
        )

    @pytest.mark.parametrize("settings", ALL)
    def test_several_objectives(self, settings):
        (problem,) = pruning.problems(settings, {**LOSS, **ACCURACY}, [Schedule(5, 20)])
        assert "must have one objective to prune by, but got 2: eval/loss, eval/token_accuracy." in problem

    @pytest.mark.parametrize("objective", ["eval/exact_match", "params/trainable"])
    def test_an_objective_that_is_known_at_the_end(self, objective):
        (problem,) = pruning.problems(MEDIAN, {objective: "maximize"}, [Schedule(5, 20)])
        assert f"(eval/loss, eval/perplexity, eval/token_accuracy), but {objective} is known at its end." in problem

    def test_no_evaluation_before_the_end(self):
        (problem,) = pruning.problems(ASHA, LOSS, [Schedule(20, 20), Schedule(50, 30)])
        assert problem == (
            "hydra/sweeper/pruner=asha must have an evaluation before the end of a run, but train.eval_steps is"
            " 20 and a run has 20 steps. Lower train.eval_steps."
        )

    def test_all_at_once(self):
        found = pruning.problems({**ASHA, "min_resource": 0, "reduction_factor": 1}, ACCURACY | LOSS, [Schedule(9, 9)])
        assert [problem.split(",")[0] for problem in found] == [
            "hydra.sweeper.pruner.min_resource must be at least 1",
            "hydra.sweeper.pruner.reduction_factor must be at least 2",
            "hydra/sweeper/pruner=asha must have one objective to prune by",
            "hydra/sweeper/pruner=asha must have an evaluation before the end of a run",
        ]

    def test_a_first_rung_beyond_the_end(self):
        (problem,) = pruning.problems({**ASHA, "min_resource": 4}, LOSS, [Schedule(5, 20), Schedule(10, 20)])
        assert problem == (
            "hydra.sweeper.pruner.min_resource must be below 4, the length of a run in units of its first evaluation,"
            " but is 4: no trial would be pruned. Lower it, or lower train.eval_steps."
        )
        assert pruning.problems({**ASHA, "min_resource": 3}, LOSS, [Schedule(5, 20)]) == []

    def test_larger_batches_reach_further(self):
        settings = {**ASHA, "min_resource": 4}
        assert pruning.problems(settings, LOSS, [Schedule(5, 20, examples=4), Schedule(5, 20, examples=16)]) == []

    @pytest.mark.parametrize("percentile", [-1.0, 101.0])
    def test_percentiles(self, percentile):
        (problem,) = pruning.problems({**PERCENTILE, "percentile": percentile}, LOSS, [Schedule(5, 20)])
        assert problem == f"hydra.sweeper.pruner.percentile must be from 0 to 100, but is {percentile}."
