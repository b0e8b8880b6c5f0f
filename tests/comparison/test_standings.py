"""Where trials stand against the best, from the files that their runs left."""

import dataclasses

import numpy as np
import pytest

from lowrung.comparison.standings import Method, Place, standings
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from tests.evidence import TOKENS, ranks, run, trial

LOSS = {"eval/loss": "minimize"}


def places(trials, objectives=LOSS):
    return {number: str(one.place) for number, one in standings(trials, objectives).of.items()}


def test_ties_and_worse_trials_by_example(tmp_path):
    found = standings(ranks(tmp_path, 0.0, 0.001, 0.5), LOSS)
    assert (found.method, found.examples) == (Method.EXAMPLES, len(TOKENS))
    assert {found.of[0].place, found.of[1].place} == {Place.BEST, Place.TIE}
    assert found.of[2].place is Place.WORSE
    assert found.of[2].difference == pytest.approx(0.5, abs=0.02)
    assert found.of[2].half_width == pytest.approx(0.025, abs=0.02)


def test_the_best_and_what_ties_with_it(tmp_path):
    assert standings(ranks(tmp_path, 0.5, 0.001, 0.0), LOSS).ties == [1, 2]
    assert standings([], LOSS).ties == []


def test_the_differences_of_a_metric_that_is_maximised_are_below_0(tmp_path):
    right = [TOKENS // 2, TOKENS // 4, TOKENS // 2 - (TOKENS > 20)]
    trials = [trial(n, {}, run(tmp_path / str(n), right=each)) for n, each in enumerate(right)]
    found = standings(trials, {"eval/token_accuracy": "maximize"})
    assert [found.of[n].place for n in range(3)] == [Place.BEST, Place.WORSE, Place.TIE]
    assert found.of[1].difference == pytest.approx(-0.25, abs=0.03)


def test_answers_are_compared_by_example(tmp_path):
    answers = [np.ones(40), np.arange(40) % 4 > 0, np.arange(40) < 39]
    trials = [
        trial(n, {}, run(tmp_path / str(n), examples=40, answers={"exact_match": each}))
        for n, each in enumerate(answers)
    ]
    assert places(trials, {"eval/exact_match": "maximize"}) == {0: "best", 1: "worse", 2: "tie"}


def test_perplexity_is_compared_by_the_loss(tmp_path):
    found = standings(ranks(tmp_path, 0.0, 0.5), {"eval/perplexity": "minimize"})
    assert (found.compared_by, found.of[1].place) == ("eval/loss", Place.WORSE)
    assert found.of[1].difference == pytest.approx(0.5, abs=0.03)


def test_a_metric_without_sums_goes_by_seeds(tmp_path):
    trials = [
        trial(n, {}, *(run(tmp_path / f"{n}{seed}", seed, eval__bleu=base + seed) for seed in range(4)))
        for n, base in enumerate((40.0, 30.0, 39.9))
    ]
    found = standings(trials, {"eval/bleu": "maximize"})
    assert found.method is Method.SEEDS
    assert places(trials, {"eval/bleu": "maximize"})[1] == "worse"
    single = [dataclasses.replace(one, seeds=one.seeds[:1]) for one in trials]
    assert {one.place for one in standings(single, {"eval/bleu": "maximize"}).of.values()} == {
        Place.BEST,
        Place.UNKNOWN,
    }


def test_counts_are_compared_exactly(tmp_path):
    trials = [
        trial(n, {}, run(tmp_path / str(n), adapter__bytes=size)) for n, size in enumerate((200.0, 100.0, 100.0, 101.0))
    ]
    found = standings(trials, {"adapter/bytes": "minimize"})
    assert [found.of[n].place for n in range(4)] == [Place.WORSE, Place.BEST, Place.TIE, Place.WORSE]
    assert (found.of[3].difference, found.of[3].half_width) == (1, 0)


def test_only_complete_trials_within_the_constraints_take_part(tmp_path):
    kept, other, pruned, broken = ranks(tmp_path, 0.3, 0.3, 0.0, 0.0)
    pruned = dataclasses.replace(pruned, outcome=Outcome(Status.PRUNED, pruned.outcome.metrics))
    broken = dataclasses.replace(broken, broken=["params/trainable <= 10"])
    assert set(places([kept, other, pruned, broken])) == {0, 1}
    assert standings([pruned, broken], LOSS).best is None


class TestEvidenceThatDoesNotCount:
    """A trial without it is not compared, and the reason is kept; the others are."""

    @pytest.fixture
    def trials(self, tmp_path):
        return ranks(tmp_path, 0.0, 0.4, 0.4)

    def unknown(self, trials):
        found = standings(trials, LOSS)
        (odd,) = found.at(Place.UNKNOWN)
        assert odd == 1
        assert found.of[2].place is Place.WORSE
        return found.of[1].reason

    def test_a_missing_file(self, trials, tmp_path):
        RunFolder(tmp_path / "1").held_out.unlink()
        assert self.unknown(trials) == "A run left no held_out.parquet, its scores by example."

    def test_a_torn_file(self, trials, tmp_path):
        path = RunFolder(tmp_path / "1").held_out
        path.write_bytes(path.read_bytes()[:100])
        assert self.unknown(trials) == "A run's scores by example, held_out.parquet, are damaged."

    def test_a_file_of_another_result(self, trials, tmp_path):
        path = RunFolder(tmp_path / "1").held_out
        path.write_bytes(RunFolder(tmp_path / "0").held_out.read_bytes())
        assert self.unknown(trials) == "A run's scores by example do not add up to its eval/loss."

    def test_other_data(self, trials, tmp_path):
        trials[1] = trial(1, {}, run(tmp_path / "1", loss=0.4, data="other"))
        assert self.unknown(trials) == "Scored on other held-out data than the best, trial 0."

    def test_scores_that_one_run_lacks(self, tmp_path):
        answers = [{"exact_match": np.ones(12)}, {}]
        runs = [run(tmp_path / str(n), answers=one) for n, one in enumerate(answers)]
        runs[1].outcome.metrics["eval/exact_match"] = 0.5  # type: ignore[index]
        trials = [trial(n, {}, one) for n, one in enumerate(runs)]
        found = standings(trials, {"eval/exact_match": "maximize"})
        assert found.of[1].reason == "A run's scores by example have no eval/exact_match."

    def test_without_the_bests_nobody_is_compared(self, trials, tmp_path):
        RunFolder(tmp_path / "0").held_out.unlink()
        found = standings(trials, LOSS)
        assert (found.best, found.at(Place.UNKNOWN)) == (0, [1, 2])
        assert found.of[2].reason.startswith("Of the best, trial 0: A run left no held_out.parquet")

    def test_one_example(self, tmp_path):
        found = standings(ranks(tmp_path, 0.0, 0.4, examples=1), LOSS)
        assert found.of[1].place is Place.UNKNOWN
        assert found.of[1].reason == "At least 2 held-out examples are needed to compare, but there are 1."


class TestSeeds:
    def test_several_seeds_bring_training_noise(self, tmp_path):
        def seeds(number, *losses):
            return trial(number, {}, *(run(tmp_path / f"{number}.{s}", s, loss=x) for s, x in enumerate(losses)))

        found = standings([seeds(0, 0.0, 0.3, 0.6), seeds(1, 0.5, 0.2, 0.5)], LOSS)
        assert found.of[1].place is Place.TIE
        assert found.of[1].seeds == 3
        assert found.of[1].noise == pytest.approx(float(np.std([0.5, -0.1, -0.1], ddof=1)))
        assert standings([seeds(2, 0.0), seeds(3, 0.1)], LOSS).of[3].place is Place.WORSE

    def test_the_best_has_as_many_seeds_as_any(self, tmp_path):
        lucky = trial(0, {}, run(tmp_path / "a", 0, loss=0.0))
        means = [trial(n, {}, *(run(tmp_path / f"{n}{s}", s, loss=0.1 * n) for s in (0, 1))) for n in (1, 2)]
        assert standings([lucky, *means], LOSS).best == 1

    def test_a_point_that_was_given_more_seeds_stands_once(self, tmp_path):
        first, second = run(tmp_path / "a", 0), run(tmp_path / "b", 1)
        found = standings([trial(0, {}, first), trial(1, {}, first, second)], LOSS)
        assert (found.ties, found.of[0].reason) == ([1], "Another trial has the same runs, and more seeds.")
