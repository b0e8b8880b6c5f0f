import dataclasses
import json
import math

import pytest

from lowrung.errors import StoreError
from lowrung.store.outcome import Outcome, Status, over_seeds

FULL = Outcome(
    Status.DIVERGED,
    metrics={"eval/loss": 3.25, "params/trainable": 1024},
    measurements={"time/total_seconds": 0.1},
    cause="train/loss is not finite at step 3.",
    facts={"gate_failures": ["top-1 agreement"], "rank": None},
)


@pytest.mark.parametrize("status", Status)
def test_round_trip(tmp_path, status):
    outcome = dataclasses.replace(FULL, status=status)
    outcome.write(tmp_path / "outcome.json")
    assert Outcome.read(tmp_path / "outcome.json") == outcome


def test_what_was_read_is_read_like_a_dict_and_written_again(tmp_path):
    FULL.write(tmp_path / "outcome.json")
    read = Outcome.read(tmp_path / "outcome.json")
    assert read is not None
    assert list(read.metrics) == ["eval/loss", "params/trainable"]
    assert read.metrics["params/trainable"] == 1024
    assert read.metrics.get("eval/loss", 0.0) == 3.25
    with pytest.raises(KeyError, match="eval/perplexity"):
        read.metrics["eval/perplexity"]
    assert repr(read.measurements) == "{'time/total_seconds': 0.1}"
    read.write(tmp_path / "again.json")
    assert Outcome.read(tmp_path / "again.json") == FULL


def test_no_file_is_no_outcome(tmp_path):
    assert Outcome.read(tmp_path / "outcome.json") is None


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    odd = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e308}
    Outcome(Status.COMPLETE, odd, odd).write(tmp_path / "outcome.json")
    read = Outcome.read(tmp_path / "outcome.json")
    assert read == Outcome(Status.COMPLETE, {"d": 1e308}, {"d": 1e308})


def test_numbers_are_metrics_and_measurements():
    assert FULL.numbers == {"eval/loss": 3.25, "params/trainable": 1024, "time/total_seconds": 0.1}


@pytest.mark.parametrize(
    "record",
    [
        {},
        [],
        {"status": "finished"},
        {"status": None},
        {"status": "complete", "loss": 1.0},
        {"metrics": {"eval/loss": 1.0}},
    ],
)
def test_what_is_not_an_outcome_is_named_with_a_remedy(tmp_path, record):
    path = tmp_path / "outcome.json"
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"outcome\.json must h.* Another version of lowrung may have.* Delete "):
        Outcome.read(path)


def test_a_torn_file_is_an_error(tmp_path):
    path = tmp_path / "outcome.json"
    FULL.write(path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(StoreError, match="must be JSON"):
        Outcome.read(path)


def test_what_a_rerun_keeps():
    kept = {Status.COMPLETE, Status.PRUNED, Status.DIVERGED, Status.SKIPPED}
    assert {status for status in Status if status.is_kept} == kept


@pytest.mark.parametrize(("passed", "expected"), [((), None), ((1.0,), True), ((0.0,), False), ((1.0, 0.0), False)])
def test_a_trial_has_passed_the_gate_when_all_its_runs_have(passed, expected):
    seeds = {seed: Outcome(Status.COMPLETE, {"merge/passed": value}) for seed, value in enumerate(passed)}
    trial = over_seeds(seeds) if seeds else Outcome(Status.COMPLETE)
    assert trial.passed_gate is expected


def test_broken_rules_of_the_gate_are_told_with_their_seed():
    assert FULL.gate_failures == ["top-1 agreement"]
    assert Outcome(Status.COMPLETE).gate_failures == ()
    assert over_seeds({3: FULL, 4: Outcome(Status.COMPLETE)}).gate_failures == ["seed 3: top-1 agreement"]


SEEDS = {
    seed: Outcome(Status.COMPLETE, {"eval/loss": loss, "eval/exact_match": match, "adapter/bytes": size})
    for seed, (loss, match, size) in enumerate([(1.0, 0.9, 4), (5.0, 0.2, 8), (2.0, 0.8, 6), (2.5, 0.4, 6)])
}
GOAL = {"eval/loss": "minimize", "eval/exact_match": "maximize", "eval/bleu": "maximize"}


class TestOverSeeds:
    @pytest.mark.parametrize(
        ("how", "loss", "match"), [("mean", 2.625, 0.575), ("median", 2.25, 0.6), ("worst", 5.0, 0.2)]
    )
    def test_what_trials_are_judged_by_has_the_value_that_was_asked_for_the_rest_its_mean(self, how, loss, match):
        found = over_seeds(SEEDS, how, GOAL).metrics
        assert found == pytest.approx({"eval/loss": loss, "eval/exact_match": match, "adapter/bytes": 6.0})

    @pytest.mark.parametrize("how", ["mean", "median", "worst"])
    def test_one_alone_is_the_trials_and_without_any_complete_one_there_is_no_value(self, how):
        assert over_seeds({4: SEEDS[1]}, how, GOAL) is SEEDS[1]
        failed = Outcome(Status.FAILED, {"eval/loss": 1.0}, cause="so")
        assert over_seeds({0: failed, 1: failed}, how, GOAL).metrics == {}
        ended = over_seeds({0: SEEDS[0], 1: failed}, how, GOAL)
        assert (ended.status, ended.metrics["eval/loss"], ended.cause) == (Status.FAILED, 1.0, "seed 1: so")
