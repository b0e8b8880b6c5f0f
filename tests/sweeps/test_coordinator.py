"""Trials from ask to tell: their seeds, their failures, Ctrl-C."""

import json
import signal
from collections import Counter
from contextlib import suppress

import pytest
from optuna.trial import TrialState

from lowrung.config.schema import Config
from lowrung.errors import Interrupted, RunFailed
from lowrung.store.outcome import Outcome, Status
from tests import stage
from tests.stage import by_seed, fails_at, interrupts_at, ranks, trains


class TestSeeds:
    @pytest.mark.slow
    def test_every_point_is_trained_with_each_and_scored_by_their_mean(self, here, capsys):
        ran = here.sweep("lora.r=8,4", "seed=0,1,2", act=by_seed(0.0, 0.1, 0.5))
        assert [(config.lora.r, config.seed) for config in ran] == [(r, seed) for r in (8, 4) for seed in (0, 1, 2)]
        best, second = here.trials()
        assert best.value == pytest.approx(trains(ran[0]).metrics["eval/loss"] + 0.2)
        assert second.value == pytest.approx(trains(ran[3]).metrics["eval/loss"] + 0.2)
        assert "seed" not in best.params
        board = json.loads(here.study.leaderboard.read_text())
        assert [run["seed"] for run in board[0]["runs"]] == [0, 1, 2]
        assert len({run["results"] for trial in board for run in trial["runs"]}) == 6
        assert f"{best.value:.3f} ± 0.26" in capsys.readouterr().out
        assert (here.study.job(1).path / "seed_2" / "run" / "outcome.json").is_file()

    @pytest.mark.slow
    def test_each_run_is_a_child_of_its_own(self, here):
        here.sweep("lora.r=4,8", "seed=0,1")
        children = [run for run in here.tracker.runs.values() if run.parent]
        assert sorted((run.tags["lowrung.trial"], run.params["seed"]) for run in children) == [
            (trial, seed) for trial in "01" for seed in "01"
        ]
        assert {run.status for run in here.tracker.runs.values()} == {Status.COMPLETE}

    @pytest.mark.slow
    def test_the_same_command_again_trains_nothing(self, here):
        here.sweep("lora.r=4,8", "seed=0,1")
        assert here.sweep("lora.r=4,8", "seed=0,1") == []
        assert len(here.trials()) == 2

    @pytest.mark.slow
    def test_a_further_seed_is_another_study_that_trains_only_that(self, here):
        here.sweep("lora.r=4", "seed=0,1", "study=two")
        assert [config.seed for config in here.sweep("lora.r=4", "seed=0,1,2", "study=three")] == [2]

    @pytest.mark.parametrize("status", [Status.FAILED, Status.DIVERGED])
    @pytest.mark.slow
    def test_a_bad_one_is_the_trials_end(self, here, status):
        with suppress(RunFailed):
            here.sweep("lora.r=8", "seed=0,1,2", act=by_seed(0.0, status, 0.0))
        assert [config.seed for config in here.ran] == [0, 1]
        (trial,) = here.trials()
        assert (trial.state, trial.user_attrs["status"]) == (TrialState.FAIL, status)
        assert trial.user_attrs["cause"] == "seed 1: simulated, seed 1"

    @pytest.mark.slow
    def test_a_sweep_that_is_interrupted_between_seeds_goes_on_with_the_next(self, here):
        interrupted: stage.Act = by_seed(0.0, 0.0, 0.0)

        def act(config: Config) -> Outcome | None:
            if config.seed == 1:
                raise KeyboardInterrupt
            return interrupted(config)

        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=8", "seed=0,1,2", act=act)
        assert [config.seed for config in here.sweep("lora.r=8", "seed=0,1,2")] == [1, 2]
        assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE]

    @pytest.mark.slow
    def test_all_slots_are_used_for_one_point(self, here):
        here.sweep("lora.r=8", "seed=0,1,2", slots=3)
        assert here.engine.most_at_once == 3

    @pytest.mark.slow
    def test_a_trial_that_is_clearly_worse_is_not_trained_with_all_of_them(self, here, capsys):
        ran = here.sweep("lora.r=8,4,2", "seed=range(0,6)", "hydra/sweeper/pruner=wilcoxon", act=by_seed(*[0.0] * 6))
        assert Counter(ranks(ran)) == {8: 6, 4: 4, 2: 4}
        assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
        assert "\ntrials 1 and 2 pruned: worse than the best trial over 4 seeds\n" in capsys.readouterr().out
        assert here.sweep("lora.r=8,4,2", "seed=range(0,6)", "hydra/sweeper/pruner=wilcoxon") == []
        board = json.loads(here.study.leaderboard.read_text())
        assert [row["status"] for row in board] == ["complete", "pruned", "pruned"]


class TestFailure:
    @pytest.mark.slow
    def test_one_trial_fails_alone_and_only_it_runs_again(self, here, capsys):
        with pytest.raises(RunFailed, match=r"1 of 3 trials failed \(first: trial 1, RuntimeError: no luck at rank 4"):
            here.sweep("lora.r=2,4,8", act=fails_at(4))
        assert ranks(here.ran) == [2, 4, 8]
        assert [trial.state.name for trial in here.trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
        printed = capsys.readouterr().out
        assert "trial 1 (lora.r=4): failed: RuntimeError: no luck at rank 4" in printed
        assert ranks(here.sweep("lora.r=2,4,8")) == [4]
        assert [trial.state.name for trial in here.trials()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
        best, *_, worst = json.loads(here.study.leaderboard.read_text())
        assert (best["trial"], worst["trial"]) == (2, 0)

    @pytest.mark.slow
    @pytest.mark.parametrize("status", [Status.OOM, Status.CANCELLED])
    def test_what_was_not_a_result_runs_again(self, here, status):
        with pytest.raises(RunFailed):
            here.sweep("lora.r=4", act=lambda config: Outcome(status, cause="so"))
        assert len(here.sweep("lora.r=4")) == 1

    @pytest.mark.slow
    def test_a_diverged_trial_is_a_result(self, here, capsys):
        def act(config: Config) -> Outcome:
            return Outcome(Status.DIVERGED, cause="too fast") if config.train.peak_rate > 1 else trains(config)

        overrides = ("train.learning_rate=1e-3,1e20", "lora.r=4")
        assert len(here.sweep(*overrides, act=act)) == 2
        assert "trial 1 diverged: too fast" in capsys.readouterr().out
        assert here.sweep(*overrides, act=act) == []
        assert [trial.state.name for trial in here.trials()] == ["COMPLETE", "FAIL"]
        rows = json.loads(here.study.leaderboard.read_text())
        assert [row["status"] for row in rows] == ["complete", "diverged"]

    @pytest.mark.slow
    def test_a_cause_with_brackets_is_printed_as_it_is(self, here, capsys):
        with pytest.raises(RunFailed, match=r"\[/b\]"):
            here.sweep("lora.r=4", act=lambda config: Outcome(Status.FAILED, cause="shape [/b] is wrong"))
        assert "failed: shape [/b] is wrong" in capsys.readouterr().out

    @pytest.mark.slow
    def test_a_sweep_that_only_fails_ends(self, here):
        with pytest.raises(
            RunFailed, match=r"2 trials failed one after the other \(hydra\.sweeper\.max_failures\)"
        ) as failed:
            here.sweep("lora.r=1,2,3,4,5", "hydra.sweeper.max_failures=2", act=fails_at(1, 2, 3, 4, 5))
        assert ranks(here.ran) == [1, 2]
        assert [row.point for row in failed.value.results.trials] == [{"lora.r": "1"}, {"lora.r": "2"}]

    @pytest.mark.slow
    def test_failures_between_successes_do_not_end_it(self, here):
        with pytest.raises(RunFailed, match="2 of 4 trials failed"):
            here.sweep("lora.r=1,2,3,4", "hydra.sweeper.max_failures=2", act=fails_at(1, 3))
        assert ranks(here.ran) == [1, 2, 3, 4]


class TestHalfTheBatch:
    @pytest.mark.slow
    def test_a_run_that_is_out_of_memory_is_tried_once_with_half_the_batch(self, here):
        def act(config: Config) -> Outcome:
            return trains(config) if config.train.batch_size == 4 else Outcome(Status.OOM, cause="out of memory")

        first, second = here.sweep("lora.r=8", act=act)
        assert (first.train.batch_size, first.train.gradient_accumulation_steps) == (8, 1)
        assert (second.train.batch_size, second.train.gradient_accumulation_steps) == (4, 2)
        (trial,) = here.trials()
        assert trial.state is TrialState.COMPLETE
        (child,) = (run for run in here.tracker.runs.values() if run.tags["lowrung.kind"] == "trial")
        assert child.tags["lowrung.retry"] == "out of memory; batch_size 4, gradient_accumulation_steps 2"
        assert here.sweep("lora.r=8") == []  # the study knows that its result is the halved one's

    @pytest.mark.slow
    def test_half_a_batch_is_tried_once(self, here):
        with pytest.raises(RunFailed):
            here.sweep("lora.r=8", act=lambda config: Outcome(Status.OOM, cause="out of memory"))
        assert [config.train.batch_size for config in here.ran] == [8, 4]


@pytest.mark.slow
def test_every_trial_is_told_exactly_once(here, monkeypatch):
    from lowrung.search.study import Study

    told: Counter[int] = Counter()
    tell = Study.tell

    def counted(self, trial, outcome):
        told[trial.number] += 1
        tell(self, trial, outcome)

    monkeypatch.setattr(Study, "tell", counted)
    ends = {
        2: trains,
        4: lambda config: Outcome(Status.DIVERGED, cause="x"),
        8: lambda config: Outcome(Status.OOM, cause="x"),
        16: fails_at(16),
        5: lambda config: None,
        64: interrupts_at(64),
    }
    with pytest.raises(KeyboardInterrupt):
        here.sweep("lora.r=2,4,8,16,5,64", act=lambda config: ends[config.lora.r](config))
    assert told == Counter(range(5))
    here.sweep("lora.r=2,4,8,16,5,64")
    assert told == Counter(range(len(here.trials())))
    assert all(trial.state.is_finished() for trial in here.trials())
    assert len(here.trials()) == 9  # oom, failed and the one without an outcome came again


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_python_drops_is_not_lost(here):
    """An exception inside a finaliser goes nowhere; this one comes between two trials."""

    class Dropping:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def act(config: Config) -> Outcome:
        Dropping()
        return trains(config)

    with pytest.raises(KeyboardInterrupt):
        here.sweep("lora.r=2,4,8", act=act)
    assert ranks(here.ran) == [2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.slow
def test_other_signals_to_end_are_what_ctrl_c_is(here, number):
    def act(config: Config) -> Outcome:
        signal.raise_signal(number)
        return trains(config)

    with pytest.raises(Interrupted) as caught:
        here.sweep("lora.r=2,4,8", act=act)
    assert caught.value.exit_code == 128 + number
    assert ranks(here.ran) == [2]
    assert here.tracker.runs["run0"].status is Status.CANCELLED
    assert ranks(here.sweep("lora.r=2,4,8")) == [4, 8]
