"""What a stage starts from, from the results of an earlier one."""

import dataclasses
import math

import pytest

from lowrung.report.leaderboard import TrialRow
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps import starting_points
from lowrung.sweeps.stage import BEST, TIES, Stage, Start
from tests.evidence import run, trial

LOSS = {"eval/loss": "minimize"}


def rows(tmp_path, *losses: float, spread: float = 0.3) -> list[TrialRow]:
    return [
        trial(number, {}, run(tmp_path / str(number), loss=loss, spread=spread)) for number, loss in enumerate(losses)
    ]


def numbers(found: starting_points.Chosen) -> list[int]:
    return [row.number for row in found.rows]


def chosen(trials: list[TrialRow], start: Start, objectives: dict[str, str] = LOSS) -> starting_points.Chosen:
    return starting_points.chosen(Stage(((),), name="b", of="a", start=start), trials, objectives)


def test_the_best_the_best_few_and_all_that_tie(tmp_path):
    trials = rows(tmp_path, 0.02, 2.0, 0.0, 0.01)
    assert numbers(chosen(trials, BEST)) == [2]
    assert numbers(chosen(trials, 2)) == [2, 3]
    assert numbers(chosen(trials, 9)) == [2, 3, 0, 1]
    assert numbers(chosen(trials, TIES)) == [2, 3, 0]
    assert not chosen(trials, TIES).notes


def test_the_order_in_which_they_ended_does_not_matter(tmp_path):
    trials = rows(tmp_path, 0.02, 2.0, 0.0, 0.01)
    assert numbers(chosen(trials[::-1], TIES)) == [2, 3, 0]


def test_only_what_is_complete_and_keeps_to_the_constraints_is_fit(tmp_path):
    trials = rows(tmp_path, 0.0, 0.1, 0.2, 0.3)
    trials[0] = dataclasses.replace(trials[0], broken=["params/trainable <= 10"])
    trials[1] = dataclasses.replace(trials[1], outcome=Outcome(Status.PRUNED, trials[1].outcome.metrics))
    assert numbers(chosen(trials, 4)) == [2, 3]
    assert numbers(chosen(trials[:2], TIES)) == []


def test_what_cannot_be_compared_is_left_out_and_said(tmp_path):
    trials = rows(tmp_path, 0.0, 0.01, 0.02)
    RunFolder(tmp_path / "1").held_out.unlink()
    found = chosen(trials, TIES)
    assert numbers(found) == [0, 2]
    (note,) = found.notes
    assert note.startswith("trial 1 could not be compared with the best, and is left out: A run left no held_out")


def test_without_evidence_the_best_is_left(tmp_path):
    trials = rows(tmp_path, 0.0, 0.01)
    for number in (0, 1):
        RunFolder(tmp_path / str(number)).held_out.unlink()
    found = chosen(trials, TIES)
    assert (numbers(found), len(found.notes)) == ([0], 1)


def test_a_value_that_is_maximised_or_missing(tmp_path):
    trials = rows(tmp_path, 0.0, 0.5)
    lost = dataclasses.replace(trials[1].outcome, metrics={**trials[1].outcome.metrics, "eval/perplexity": math.nan})
    trials[1] = dataclasses.replace(trials[1], outcome=lost)
    assert numbers(chosen(trials, BEST, {"eval/loss": "maximize"})) == [1]
    assert numbers(chosen(trials, 1, {"eval/perplexity": "maximize"})) == [0]


@pytest.mark.parametrize("start", [BEST, TIES, 1, 3])
def test_a_value_that_is_not_finite_starts_nothing(tmp_path, start):
    trials = rows(tmp_path, 0.0, 0.1, 0.2)
    for row, value in zip(trials, (math.nan, math.inf, 1.0), strict=True):
        row.outcome.metrics["eval/mine"] = value  # type: ignore[index]
    assert numbers(chosen(trials, start, {"eval/mine": "maximize"})) == [2]
    assert numbers(chosen(trials[:2], start, {"eval/mine": "minimize"})) == []
