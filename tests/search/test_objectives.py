"""What a sweep can be for: metrics that every run has."""

from collections.abc import Iterator

import pytest

from lowrung.config.schema import Config
from lowrung.search.objectives import metric_problems, objective_problems
from tests import composing
from tests.composing import changed


@pytest.fixture(scope="module")
def config() -> Iterator[Config]:
    with composing.composer() as made:
        yield made.config()


class TestObjectives:
    @pytest.mark.parametrize("objectives", [{"eval/loss": "minimize"}, {"adapter/bytes": "minimize", "x": "x"}])
    def test_metrics_and_directions_are_known(self, objectives):
        assert bool(objective_problems(objectives)) == ("x" in objectives)

    @pytest.mark.parametrize(
        ("objectives", "problem"),
        [
            ({}, "hydra.sweeper.objectives must name a metric, but is empty."),
            (3, "hydra.sweeper.objectives must be pairs such as {eval/loss:minimize}, but is 3."),
            (
                {"eval/loss": "min"},
                "hydra.sweeper.objectives.eval/loss must be one of minimize, maximize, but is 'min'."
                " Did you mean minimize?",
            ),
        ],
    )
    def test_a_problem_is_named(self, objectives, problem):
        assert objective_problems(objectives) == [problem]

    def test_all_metrics_that_there_are_are_listed_those_of_ones_own_too(self, config):
        scored = changed(config, "data.metrics", ["rouge", "my.own.score"])
        (problem,) = metric_problems(scored, {"constraints": {"eval/politeness": "<=1"}})
        for name in ("eval/loss", "eval/rougeL", "eval/score", "params/trainable"):
            assert name in problem.partition("take one of")[2]
        assert "forget" not in problem

    def test_a_metric_is_suggested(self):
        (problem,) = objective_problems({"eval/los": "minimize"})
        assert problem.endswith("but is 'eval/los'. Did you mean eval/loss?")

    @pytest.mark.parametrize(
        ("kind", "rule"), [("objectives", "minimize"), ("constraints", "<=1")], ids=["objective", "constraint"]
    )
    class TestThatNoRunWillHave:
        def test_a_score_of_text_that_is_not_taken(self, config, kind, rule):
            (problem,) = metric_problems(config, {kind: {"eval/exact_match": rule}})
            assert problem == (
                f"hydra.sweeper.{kind} must name metrics that every run has, but eval/exact_match is not measured,"
                " since data.metrics is []. Add it there, or take one of eval/loss, eval/perplexity,"
                " eval/token_accuracy, params/trainable, adapter/bytes."
            )
            assert metric_problems(config, {kind: {"eval/loss": rule, "params/trainable": rule}}) == []
            scored = changed(config, "data.metrics", ["exact_match", "rouge", "my.own.score"])
            for name in ("exact_match", "rougeL", "score"):
                assert metric_problems(scored, {kind: {f"eval/{name}": rule}}) == []

        def test_forgetting_that_is_not_measured(self, config, kind, rule):
            goal = {kind: {"eval/loss": rule, "forget/loss_delta": rule}}
            (problem,) = metric_problems(config, goal)
            assert problem == (
                f"hydra.sweeper.{kind} must name metrics that every run has, but forget/loss_delta is not measured,"
                " since verify.enabled is true and verify.forgetting 0. Add verify.forgetting=48, with verify=default."
            )
            measured = changed(config, "verify.forgetting", 48)
            assert metric_problems(measured, goal) == []
            (problem,) = metric_problems(changed(measured, "verify.enabled", False), goal)
            assert "verify.enabled is false" in problem

    def test_forgetting_can_be_optimised(self):
        assert objective_problems({"eval/loss": "minimize", "forget/loss_delta": "minimize"}) == []

    def test_a_metric_of_ones_own_can_be_optimised(self):
        assert objective_problems({"eval/politeness": "maximize"}) == []
