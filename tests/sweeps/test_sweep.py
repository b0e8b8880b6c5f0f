"""The coordinator, from the sweep's overrides to its leaderboard; see `tests.stage` for what is played.

A sweep takes 0.3 s, most of it Hydra's composing; the cases beside the main ones are marked as slow.
"""

import copy
import json
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna import load_study
from optuna.trial import TrialState

from lowrung.config.schema import Config
from lowrung.engine.base import Ended, Engine, Exit, Job
from lowrung.errors import RunFailed, StoreError, UsageError
from lowrung.runs import task
from lowrung.runs.folder import kept_outcome
from lowrung.runs.task import Assignment
from lowrung.store import atomic
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps import coordinator, queue
from lowrung.sweeps.results import Results
from lowrung.track.base import TrackerLostError
from tests import stage
from tests.stage import SEEN, trains

RATE = "train.learning_rate=tag(log,interval(1e-5,1e-1))"


def ranks(configs: list[Config]) -> list[int]:
    return [config.lora.r for config in configs]


def fails_at(*bad: int) -> stage.Act:
    """Raises for these ranks, as a bug in training would."""

    def act(config: Config) -> Outcome:
        if config.lora.r in bad:
            raise RuntimeError(f"no luck at rank {config.lora.r}")
        return trains(config)

    return act


def interrupts_at(rank: int) -> stage.Act:
    """Stands for Ctrl-C while this rank trains."""

    def act(config: Config) -> Outcome:
        if config.lora.r == rank:
            raise KeyboardInterrupt
        return trains(config)

    return act


class TestGrid:
    def test_every_point_once_in_command_line_order(self, here, capsys):
        ran = here.sweep("lora.r=8,4,8", "train.max_steps=2,1", "seed=3")
        assert [(config.lora.r, config.train.max_steps) for config in ran] == [(8, 2), (8, 1), (4, 2), (4, 1)]
        assert {config.seed for config in ran} == {3}
        assert {config.lora.alpha / config.lora.r for config in ran} == {2}
        assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE] * 4

    @pytest.mark.slow
    def test_what_hydra_leaves_behind(self, here):
        here.sweep("lora.r=4,8")
        for number, rank in enumerate((4, 8)):
            job = here.study.job(number)
            overrides = (job.path / ".hydra" / "overrides.yaml").read_text().splitlines()
            assert overrides == ["- study=s", f"- lora.r={rank}"]
            assert (job.path / ".hydra" / "hydra.yaml").is_file()
            run = job.run.resolve()
            assert run.parent == Path("runs").absolute()
            assert kept_outcome(RunFolder(run)) is not None
            assert f"r: {rank}\n" in (run / "config.yaml").read_text()
            assert json.loads((run / "environment.json").read_text())["model_fingerprint"] == "model"
        assert (here.study.path / "multirun.yaml").is_file()

    @pytest.mark.slow
    def test_a_custom_subfolder_is_respected(self, here):
        here.sweep("lora.r=4,8", "hydra.sweep.subdir=job-${hydra.job.num}")
        assert (here.study.path / "job-1" / "run" / "outcome.json").is_file()
        assert not here.study.job(1).path.exists()

    @pytest.mark.slow
    def test_points_with_equal_configs_run_once(self, here):
        assert len(here.sweep("verify=none", "verify.prompts=4,8")) == 1
        assert len(here.trials()) == 1

    @pytest.mark.slow
    def test_groups_and_lists_are_axes(self, here, capsys):
        ran = here.sweep("lora=default,rslora", "lora.target_modules=[q_proj],[q_proj,v_proj]")
        assert [(c.lora.use_rslora, c.lora.target_modules) for c in ran] == [
            (rslora, targets) for rslora in (False, True) for targets in (["q_proj"], ["q_proj", "v_proj"])
        ]
        assert "[q_proj,v_proj]" in capsys.readouterr().out.split("results:")[0].rsplit("trainable", 1)[1]

    def test_no_axis_is_one_trial(self, here):
        assert len(here.sweep("lora.r=4")) == 1

    @pytest.mark.slow
    def test_n_trials_caps_it_and_a_larger_number_goes_on(self, here):
        assert ranks(here.sweep("lora.r=2,4,8,16", n_trials=2)) == [2, 4]
        assert ranks(here.sweep("lora.r=2,4,8,16", n_trials=3)) == [8]
        assert ranks(here.sweep("lora.r=2,4,8,16")) == [16]
        assert len(here.trials()) == 4

    @pytest.mark.slow
    def test_several_slots_are_filled(self, here):
        assert sorted(ranks(here.sweep("lora.r=2,4,8", slots=2))) == [2, 4, 8]
        assert here.engine.most_at_once == 2

    @pytest.mark.slow
    def test_the_command_line_changes_a_preset(self, here):
        assert ranks(here.sweep("sweeps=rank_ladder", "lora.r=4,64")) == [4, 64]


class TestSearch:
    @pytest.mark.slow
    def test_an_interval_is_drawn_within_its_ends(self, here):
        ran = here.sweep(RATE, n_trials=4)
        rates = [config.train.learning_rate for config in ran]
        assert len(set(rates)) == 4
        assert all(1e-5 <= rate <= 1e-1 for rate in rates)
        assert rates == [trial.params["train.learning_rate"] for trial in here.trials()]

    @pytest.mark.slow
    def test_the_grids_points_take_turns(self, here):
        ran = here.sweep("lora.r=2,4,8", RATE, n_trials=5, slots=2)
        assert Counter(ranks(ran)) == {2: 2, 4: 2, 8: 1}
        assert len({config.train.learning_rate for config in ran}) == 5

    @pytest.mark.slow
    def test_a_search_in_parts_is_the_search_in_one(self, here, tmp_path, monkeypatch):
        parts = [config for n in (1, 3) for config in here.sweep("lora.r=2,4", RATE, n_trials=n)]
        monkeypatch.chdir(tmp_path)
        whole = here.sweep("lora.r=2,4", RATE, n_trials=3)
        assert len(whole) == 3
        assert [c.train.learning_rate for c in parts] == [c.train.learning_rate for c in whole]

    @pytest.mark.slow
    def test_the_same_draw_is_trained_once(self, here, capsys):
        ran = here.sweep("lora.r=int(interval(4,5))", n_trials=6, slots=3)
        assert sorted(ranks(ran)) == [4, 5]
        states = [trial.state for trial in here.trials()]
        assert states == [TrialState.COMPLETE] * 6
        assert capsys.readouterr().out.count(": reused, eval loss") == 4

    @pytest.mark.slow
    def test_whatever_fails_fails_its_twins_too(self, here):
        with pytest.raises(RunFailed, match="2 of 2 trials failed"):
            here.sweep("lora.r=int(interval(4,5))", "seed=1", n_trials=2, slots=2, act=fails_at(4, 5))
        assert [trial.state for trial in here.trials()] == [TrialState.FAIL] * 2


def by_seed(*results: float | Status) -> stage.Act:
    """Trains to a loss that the seed decides, added to the rank's own; or ends as something else."""

    def act(config: Config) -> Outcome:
        result = results[config.seed]
        if isinstance(result, Status):
            return Outcome(result, cause=f"played, seed {config.seed}")
        trained = trains(config)
        loss = trained.metrics["eval/loss"] + result
        return Outcome(Status.COMPLETE, {**trained.metrics, "eval/loss": loss}, trained.measurements)

    return act


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
        assert trial.user_attrs["cause"] == "seed 1: played, seed 1"

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
        assert "pruned: worse than the best trial over 4 seeds" in capsys.readouterr().out
        assert here.sweep("lora.r=8,4,2", "seed=range(0,6)", "hydra/sweeper/pruner=wilcoxon") == []
        board = json.loads(here.study.leaderboard.read_text())
        assert [row["status"] for row in board] == ["complete", "pruned", "pruned"]

    def test_wilcoxon_needs_seeds_to_compare(self, here):
        with pytest.raises(UsageError, match=r"must have at least 5 seeds .* but has 1"):
            here.sweep("lora.r=8,4", "hydra/sweeper/pruner=wilcoxon")


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

    def test_a_task_that_leaves_no_outcome_has_failed(self, here):
        with pytest.raises(RunFailed, match=r"the run left no outcome; read .*log\.txt"):
            here.sweep("lora.r=4", act=lambda config: None)
        assert here.trials()[0].user_attrs["status"] == "failed"

    def test_the_outcome_is_trusted_before_the_end_of_the_process(self, here, capsys):
        """A run may leave its result and then break, in a destructor of some library, say."""

        def act(config: Config) -> Outcome:
            (folder,) = Path("runs").iterdir()
            trains(config).write(folder / "outcome.json")
            raise RuntimeError("too late")

        here.sweep("lora.r=4", act=act)
        assert here.trials()[0].state is TrialState.COMPLETE

    @pytest.mark.slow
    @pytest.mark.parametrize("status", [Status.OOM, Status.CANCELLED])
    def test_what_was_not_a_result_runs_again(self, here, status):
        with pytest.raises(RunFailed):
            here.sweep("lora.r=4", act=lambda config: Outcome(status, cause="so"))
        assert len(here.sweep("lora.r=4")) == 1

    def test_a_diverged_trial_is_a_result(self, here, capsys):
        def act(config: Config) -> Outcome:
            return Outcome(Status.DIVERGED, cause="too fast") if config.train.learning_rate > 1 else trains(config)

        overrides = ("train.learning_rate=1e-3,1e20", "lora.r=4")
        assert len(here.sweep(*overrides, act=act)) == 2
        assert "trial 1 diverged: too fast" in capsys.readouterr().out
        assert here.sweep(*overrides, act=act) == []
        assert [trial.state.name for trial in here.trials()] == ["COMPLETE", "FAIL"]
        rows = json.loads(here.study.leaderboard.read_text())
        assert [row["status"] for row in rows] == ["complete", "diverged"]

    def test_a_cause_with_brackets_is_printed_as_it_is(self, here, capsys):
        with pytest.raises(RunFailed, match=r"\[/b\]"):
            here.sweep("lora.r=4", act=lambda config: Outcome(Status.FAILED, cause="shape [/b] is wrong"))
        assert "failed: shape [/b] is wrong" in capsys.readouterr().out


class TestReuse:
    def test_the_same_command_again_trains_nothing(self, here, capsys):
        here.sweep("lora.r=4,8")
        first = capsys.readouterr().out
        assert here.sweep("lora.r=4,8") == []
        again = capsys.readouterr().out
        assert "2 trials, 2 done before" in again
        assert again.count("reused") == 2
        assert "reused" not in first
        assert len(here.trials()) == 2

    @pytest.mark.slow
    def test_what_does_not_change_the_runs_does_not_change_the_study(self, here):
        here.sweep("lora.r=4,8", "study=null")
        assert here.sweep("lora.r=8,4", "study=null", "track=none", "store=./runs", n_trials=2) == []
        (study,) = Path("multirun").glob("docstrings-*")
        assert len(here.trials(StudyFolder(study))) == 2

    @pytest.mark.slow
    def test_what_changes_the_runs_makes_another_study(self, here):
        for overrides in (["lora.r=4"], ["lora.r=4,8"], ["lora.r=4", "seed=1"]):
            here.sweep(*overrides, "study=null")
        assert len(list(Path("multirun").glob("docstrings-*"))) == 3

    @pytest.mark.slow
    def test_results_are_shared_by_studies(self, here, capsys):
        here.sweep("lora.r=4,8")
        assert ranks(here.sweep("lora.r=8,16", "study=second")) == [16]
        assert capsys.readouterr().out.count("): reused, eval loss") == 1
        trials = here.trials(StudyFolder(Path("multirun/second")))
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
        assert Path("multirun/second/0/run").resolve() == Path("multirun/s/1/run").resolve()
        for number, rank in enumerate((8, 16)):
            hydras = Path(f"multirun/second/{number}/.hydra")
            assert (hydras / "overrides.yaml").read_text() == f"- study=second\n- lora.r={rank}\n"
            assert f"  r: {rank}\n" in (hydras / "config.yaml").read_text()
            assert "hydra:\n" in (hydras / "hydra.yaml").read_text()
            assert "hydra:" not in (hydras / "config.yaml").read_text()

    @pytest.mark.slow
    def test_a_diverged_result_is_shared_too(self, here):
        diverges = Outcome(Status.DIVERGED, cause="too fast")
        here.sweep("lora.r=8", act=lambda config: diverges)
        assert ranks(here.sweep("lora.r=8,16", "study=second")) == [16]

    @pytest.mark.slow
    def test_a_pruned_trial_is_kept_by_its_study_and_goes_on_in_another(self, here):
        def act(config: Config) -> Outcome:
            trained = trains(config)
            return trained if config.lora.r == 4 else Outcome(Status.PRUNED, trained.metrics, cause="stopped at step 5")

        here.sweep("lora.r=4,8", act=act)
        assert here.sweep("lora.r=4,8") == []
        assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE, TrialState.PRUNED]
        board = json.loads(here.study.leaderboard.read_text())
        assert [row["status"] for row in board] == ["complete", "pruned"]
        assert ranks(here.sweep("lora.r=4,8", "study=second")) == [8]

    @pytest.mark.slow
    def test_a_changed_model_is_trained_anew(self, here):
        here.sweep("lora.r=4,8")
        changed = SimpleNamespace(**{**vars(SEEN), "model_fingerprint": "another"})
        assert ranks(here.sweep("lora.r=4,8", seen=changed)) == [4, 8]
        assert len(list(Path("runs").iterdir())) == 4

    @pytest.mark.slow
    def test_a_deleted_result_is_trained_anew(self, here):
        here.sweep("lora.r=4,8")
        (here.study.job(1).run / "outcome.json").unlink()
        assert ranks(here.sweep("lora.r=4,8")) == [8]

    @pytest.mark.slow
    def test_a_point_that_was_tried_again_is_one_row(self, here, capsys):
        here.sweep("lora.r=4,8")
        shutil.rmtree("runs")
        assert ranks(here.sweep("lora.r=4,8")) == [4, 8]
        capsys.readouterr()
        assert here.sweep("lora.r=4,8") == []
        assert "study s: 2 trials, 2 done before" in capsys.readouterr().out
        assert sorted(row["point"]["lora.r"] for row in json.loads(here.study.leaderboard.read_text())) == ["4", "8"]

    @pytest.mark.slow
    def test_a_named_study_refuses_another_space(self, here):
        here.sweep("lora.r=4", r"study='it\'s, mine'")
        with pytest.raises(UsageError, match=r"\"it's, mine\" was made for another: train.max_steps is 1,2 now"):
            here.sweep("train.max_steps=1,2", r"study='it\'s, mine'")


class TestInterruption:
    def test_nothing_is_told_and_the_trial_goes_on_under_its_number(self, here, capsys):
        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=2,4,8", act=interrupts_at(4))
        assert "interrupted; the same command goes on from here" in capsys.readouterr().out
        assert [trial.state.name for trial in here.trials()] == ["COMPLETE", "RUNNING"]
        assert "status" not in here.trials()[1].user_attrs
        assert ranks(here.sweep("lora.r=2,4,8")) == [4, 8]
        trials = here.trials()
        assert [trial.params["lora.r"] for trial in trials] == [2, 4, 8]
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3

    @pytest.mark.slow
    def test_with_a_search_the_drawn_values_stay(self, here):
        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=2,4", RATE, n_trials=3, act=interrupts_at(4))
        drawn = here.trials()[1].params
        ran = here.sweep("lora.r=2,4", RATE, n_trials=3)
        assert ran[0].train.learning_rate == drawn["train.learning_rate"]
        assert [trial.params for trial in here.trials()][1] == drawn
        assert len(here.trials()) == 3

    @pytest.mark.slow
    def test_all_that_ran_at_once_are_adopted(self, here):
        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=2,4,8", slots=3, act=interrupts_at(2))
        assert [trial.state.name for trial in here.trials()] == ["RUNNING"] * 3
        assert ranks(here.sweep("lora.r=2,4,8")) == [2, 4, 8]
        assert len(here.trials()) == 3

    def test_a_result_that_was_left_but_not_told_is_taken_over(self, here):
        def act(config: Config) -> Outcome:
            (folder,) = Path("runs").iterdir()
            trains(config).write(folder / "outcome.json")
            raise KeyboardInterrupt  # the coordinator dies just before it hears of it

        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=4", act=act)
        assert here.trials()[0].state is TrialState.RUNNING
        assert here.sweep("lora.r=4") == []
        assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE]

    @pytest.mark.slow
    def test_a_trial_that_was_never_asked_to_the_end_is_put_aside(self, here):
        here.sweep("lora.r=4,8", n_trials=1)
        load_study(study_name="s", storage=f"sqlite:///{here.study.database.absolute()}").ask()  # killed in the middle
        assert ranks(here.sweep("lora.r=4,8")) == [8]
        assert [trial.state.name for trial in here.trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
        assert here.sweep("lora.r=4,8") == []


class TestOneCoordinator:
    def test_a_second_one_is_refused_before_it_asks(self, here):
        here.sweep("lora.r=4")
        with atomic.lock(here.study.lock), pytest.raises(UsageError, match=r"another process runs 's' in .*multirun"):
            here.sweep("lora.r=4")
        assert len(here.trials()) == 1

    def test_it_holds_the_lock_while_trials_run(self, here):
        def act(config: Config) -> Outcome:
            with pytest.raises(StoreError), atomic.lock(here.study.lock):
                pass
            return trains(config)

        here.sweep("lora.r=4", act=act)
        with atomic.lock(here.study.lock):
            pass

    @pytest.mark.slow
    def test_a_run_that_another_sweep_trains_is_waited_for(self, here, monkeypatch):
        (config,) = here.sweep("lora.r=8")
        (run,) = Path("runs").iterdir()
        (run / "outcome.json").unlink()
        (run / "adapter").mkdir()
        held = ExitStack()
        held.enter_context(atomic.lock(run / ".lock"))

        def the_other_ends(seconds):
            """Stands where the sweep waits for a while."""
            assert (run / "adapter").is_dir()
            trains(config).write(run / "outcome.json")
            held.close()

        monkeypatch.setattr("lowrung.sweeps.queue.time.sleep", the_other_ends)
        monkeypatch.setattr(coordinator, "CHECK_SECONDS", 0.0)
        monkeypatch.setattr(queue, "CHECK_SECONDS", 0.0)
        assert here.sweep("lora.r=8", "study=second") == []
        assert (run / "adapter").is_dir()
        assert [trial.state for trial in here.trials(StudyFolder(Path("multirun/second")))] == [TrialState.COMPLETE]


class TestUsage:
    """Bad usage ends the sweep before anything starts; tests/test_check.py has the messages."""

    @pytest.mark.parametrize(
        ("overrides", "count"),
        [
            (["lora.r=4,0", RATE, "seed=interval(1,2)"], 3),
            (["lora.r=4,8", "seed=interval(1,9)"], 1),
            (["lora.r=4,8", "track.uri=postgresql://me:hunter2@there/x", "train.max_steps=0"], 2),
            (["lora.r=4,8", "hydra.sweeper.objectives={eval/loss:max}", "hydra.sweeper.n_trials=0"], 2),
            (["lora.r=4,8", "hydra.sweeper.objectives={eval/exact_match:maximize}"], 1),
        ],
    )
    def test_everything_is_said_at_once_and_nothing_made(self, here, overrides, count):
        with pytest.raises(UsageError) as caught:
            here.sweep(*overrides)
        assert len(caught.value.problems) == count
        assert "hunter2" not in str(caught.value)
        assert list(Path().iterdir()) == []

    @pytest.mark.parametrize(("part", "name"), [("sampler", "random"), ("pruner", "asha")])
    def test_a_part_that_is_set_like_a_value_is_to_be_chosen(self, here, part, name):
        with pytest.raises(UsageError, match=rf"^hydra/sweeper/{part} must be .* Write hydra/sweeper/{part}={name}\.$"):
            here.sweep("lora.r=4,8", f"hydra.sweeper.{part}={name}")

    def test_a_grid_of_one_value_is_refused(self, here):
        grid = ["hydra/sweeper/sampler=grid", "hydra.sweeper.sampler.n_values=1"]
        with pytest.raises(UsageError, match=r"^hydra\.sweeper\.sampler\.n_values must be at least 2, but is 1\.$"):
            here.sweep(RATE, *grid)

    def test_a_folder_that_cannot_be_written_is_named(self, here):
        with pytest.raises(UsageError, match=r"hydra\.sweep\.dir must be where files can be written, but /proc"):
            here.sweep("hydra.sweep.dir=/proc/none")
        assert here.ran == []

    def test_a_rule_that_only_pairs_break_is_found_in_the_grid(self, here):
        """Each value passes beside the others' first ones."""
        overrides = ["verify.merge_dtype=float32,float16", "~verify.tolerances.float16"]
        with pytest.raises(UsageError, match=r"verify\.tolerances must have an entry for float16"):
            here.sweep(*overrides)

    def test_what_the_look_finds_ends_it_with_each_problem_once(self, here):
        seen = SimpleNamespace(problems=("no such model", "no such module"))
        with pytest.raises(UsageError) as caught:
            here.sweep("lora.r=4,8", "data=docstrings,number_words", seen=seen)
        assert caught.value.problems == ["no such model", "no such module"]
        assert not Path("runs").exists()
        assert not here.tracker.runs


class TestTracking:
    def test_a_parent_and_a_child_for_each_trial(self, here, capsys):
        here.sweep("lora.r=4,8")
        parent, *children = here.tracker.runs.values()
        assert (parent.name, parent.parent, parent.status) == ("s", None, Status.COMPLETE)
        assert parent.tags["lowrung.kind"] == "sweep"
        assert [child.name for child in children] == ["lora.r=4", "lora.r=8"]
        for number, child in enumerate(children):
            assert child.parent == "run0"
            assert child.status is Status.COMPLETE
            assert child.params["lora.r"] == str((4, 8)[number])
            assert child.params.keys() == {"lora.r", "model", "data", "seed", "train.learning_rate"}
            assert (child.tags["lowrung.trial"], child.tags["lowrung.study"]) == (str(number), "s")
            assert child.tags["lowrung.signature"] == here.study.job(number).run.resolve().name
            assert child.metrics["eval/loss"] == pytest.approx((2.522878745, 1.522878745)[number])
            assert {"config.yaml", "environment.json", "outcome.json"} <= child.artifacts.keys()
        assert "http://127.0.0.1:5000/#/compare-runs?runs=run1,run2" in capsys.readouterr().out

    @pytest.mark.slow
    def test_the_parent_shows_the_best_so_far(self, here):
        here.sweep("lora.r=4,8,2")
        parent = here.tracker.runs["run0"]
        losses = parent.history["eval/loss"]
        assert losses == {1: pytest.approx(losses[2] + 1), 2: losses[2]}
        assert parent.tags["lowrung.best_trial"] == "1"
        assert "leaderboard.json" in parent.artifacts

    @pytest.mark.slow
    def test_a_better_trial_after_a_failed_one_shows_in_the_parent(self, here):
        with pytest.raises(RunFailed):
            here.sweep("lora.r=2,8", act=fails_at(8))
        assert here.tracker.runs["run0"].status is Status.FAILED
        here.sweep("lora.r=2,8")
        parent = here.tracker.runs["run0"]
        assert parent.status is Status.COMPLETE
        assert parent.metrics["eval/loss"] == here.tracker.runs["run3"].metrics["eval/loss"]
        assert [run.parent for run in here.tracker.runs.values()] == [None, "run0", "run0", "run0"]

    @pytest.mark.slow
    def test_an_interrupted_trial_keeps_its_run(self, here):
        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=2,4", act=interrupts_at(4))
        assert here.tracker.runs["run0"].status is Status.CANCELLED
        assert here.tracker.runs["run2"].status is Status.CANCELLED
        here.sweep("lora.r=2,4")
        assert len(here.tracker.runs) == 3
        assert {run.status for run in here.tracker.runs.values()} == {Status.COMPLETE}

    @pytest.mark.slow
    def test_a_sweep_that_breaks_off_leaves_no_run_open(self, here, monkeypatch):
        def full_disk(*_):
            raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(queue, "prepare_folder", full_disk)
            with pytest.raises(OSError, match="No space left"):
                here.sweep("lora.r=4")
        assert str(here.tracker.runs["run0"].status) == "cancelled"
        assert ranks(here.sweep("lora.r=4")) == [4]
        assert str(here.tracker.runs["run0"].status) == "complete"

    @pytest.mark.parametrize("call", ["start_run", "log", "end_run"])
    @pytest.mark.slow
    def test_a_coordinator_that_is_killed_between_two_records_leaves_none_open(self, here, monkeypatch, call):
        done = getattr(here.tracker, call)

        def killed(*args, **kwargs):
            done(*args, **kwargs)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(here.tracker, call, killed)
            with pytest.raises(KeyboardInterrupt):
                here.sweep("lora.r=4,8")
        here.sweep("lora.r=4,8")
        parent, *children = here.tracker.runs.values()
        assert {run.status for run in (parent, *children)} == {Status.COMPLETE}
        assert [child.params["lora.r"] for child in children] == ["4", "8"]
        assert len(here.trials()) == 2

    @pytest.mark.slow
    def test_the_best_is_in_the_parent_also_where_the_last_trial_was_just_told(self, here, monkeypatch):
        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Results, "log_best", killed)
            with pytest.raises(KeyboardInterrupt):
                here.sweep("lora.r=8")
        here.sweep("lora.r=8")
        parent, child = here.tracker.runs.values()
        assert parent.metrics["eval/loss"] == child.metrics["eval/loss"]

    def test_a_history_that_the_run_had_not_sent_is_whole_in_the_end(self, here):
        here.sweep("lora.r=8")  # played runs write their mailbox alone
        assert here.tracker.runs["run1"].history["train/loss"] == {1: 2.5}

    @pytest.mark.slow
    def test_what_a_lost_tracker_has_in_part_is_completed_by_the_next_start(self, here, monkeypatch):
        def lost(*_):
            raise TrackerLostError("it is away")

        with monkeypatch.context() as patch:
            patch.setattr(here.tracker, "log_artifact", lost)
            here.sweep("lora.r=4,8")
        assert not here.sweep("lora.r=4,8")
        parent, *children = here.tracker.runs.values()
        assert [child.params["lora.r"] for child in children] == ["4", "8"]
        assert {run.status for run in (parent, *children)} == {Status.COMPLETE}
        assert all("outcome.json" in child.artifacts for child in children)

    def test_a_run_that_has_tracked_itself_is_closed_and_no_more(self, here):
        here.returned = task.Ran(Status.COMPLETE, is_tracked=True)
        here.sweep("lora.r=8")
        child = here.tracker.runs["run1"]
        assert child.status is Status.COMPLETE
        assert not child.history
        assert not child.artifacts

    def test_what_a_killed_run_had_not_deleted_goes(self, here):
        def act(config: Config) -> Outcome:
            (folder,) = (RunFolder(path) for path in Path("runs").iterdir())
            for path in (folder.checkpoints / "checkpoint-1", folder.scratch / "merged"):
                path.mkdir(parents=True)
            return trains(config)

        here.sweep("lora.r=8", act=act)
        (run,) = Path("runs").iterdir()
        assert not RunFolder(run).checkpoints.exists()
        assert not RunFolder(run).scratch.exists()

    @pytest.mark.slow
    def test_a_reused_result_has_its_history_in_the_new_study(self, here):
        here.sweep("lora.r=8")
        here.sweep("lora.r=8", "study=second")
        second = here.tracker.runs["run3"]
        assert second.tags["lowrung.study"] == "second"
        assert second.history["train/loss"] == {1: 2.5}
        assert second.metrics["eval/loss"] == here.tracker.runs["run1"].metrics["eval/loss"]

    def test_a_failed_trial_says_why(self, here):
        with pytest.raises(RunFailed):
            here.sweep("lora.r=4", act=fails_at(4))
        child = here.tracker.runs["run1"]
        assert child.status is Status.FAILED
        assert child.tags["lowrung.cause"].startswith("RuntimeError: no luck at rank 4")

    @pytest.mark.slow
    def test_a_tracker_that_was_emptied_is_filled_anew(self, here):
        here.sweep("lora.r=4,8", n_trials=1)
        here.tracker.runs.clear()
        here.sweep("lora.r=4,8")
        assert [run.name for run in here.tracker.runs.values()][1:] == ["lora.r=4", "lora.r=8"]


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


def test_the_played_engine_is_an_engine(tmp_path):
    engine: Engine = stage.PlayedEngine(slots=2)
    for key in ("a", "b"):
        engine.submit(Job(key, tmp_path / key, partial(str.upper, key)))
    ended = [event for _ in range(2) for event in engine.wait()]
    assert ended == [Ended("a", Exit.RETURNED, "A"), Ended("b", Exit.RETURNED, "B")]
    assert engine.wait() == []
    engine.close()


@pytest.mark.slow
def test_several_gpus_for_a_model_that_lies_on_one_are_refused(here):
    with pytest.raises(UsageError, match=r"gpus_per_trial=2 needs a model that is spread over them.*device_map=auto"):
        here.sweep("lora.r=2,4", "hydra.launcher.gpus_per_trial=2")
    spread = ["hydra.launcher.gpus_per_trial=2", "model.device_map=auto"]
    assert len(here.sweep("lora.r=2,4", *spread)) == 2


def test_what_is_looked_at_before_the_first_run_cannot_be_an_interval(here):
    with pytest.raises(UsageError, match=r"data\.max_length must be a list of values such as data\.max_length=1,2"):
        here.sweep("data.max_length=int(interval(64,128))", n_trials=2)


@pytest.mark.slow
def test_a_hub_models_branch_is_pinned_to_the_commit_that_was_found(here):
    seen = copy.copy(SEEN)
    seen.revision = "c0ffee"
    here.sweep("lora.r=2,4", "model.path=some/model", "model.revision=main", seen=seen)
    for number in (0, 1):
        job = here.study.job(number)
        assert Assignment.read(job.assignment).revision == "c0ffee"
        assert "revision: c0ffee" in (job.run / "config.yaml").read_text()


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


class TestRetries:
    """What can be tried again is, and a sweep that only fails ends."""

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
    def test_a_lost_process_is_started_again(self, here, capsys):
        died: list[int] = []

        def act(config: Config) -> Outcome:
            if not died:
                died.append(config.lora.r)
                raise stage.Died
            return trains(config)

        assert ranks(here.sweep("lora.r=4,8", act=act)) == [4, 4, 8]
        assert "its process was lost (SIGKILL); tried again" in capsys.readouterr().out
        assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE] * 2

    @pytest.mark.slow
    def test_as_often_as_was_asked_for(self, here):
        def act(config: Config) -> Outcome:
            raise stage.Died

        with pytest.raises(RunFailed, match="SIGKILL"):
            here.sweep("lora.r=4", "hydra.sweeper.retries=2", act=act)
        assert ranks(here.ran) == [4, 4, 4]

    @pytest.mark.slow
    def test_a_process_that_is_lost_while_the_sweep_stops_is_left_for_the_next_start(self, here):
        def act(config: Config) -> Outcome:
            if config.lora.r == 8:
                raise stage.Died
            signal.raise_signal(signal.SIGINT)
            return trains(config)

        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=4,8", slots=2, act=act)
        assert ranks(here.ran) == [4, 8]
        assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE, TrialState.RUNNING]
        assert ranks(here.sweep("lora.r=4,8")) == [8]

    @pytest.mark.slow
    def test_half_a_batch_is_tried_once(self, here):
        with pytest.raises(RunFailed):
            here.sweep("lora.r=8", act=lambda config: Outcome(Status.OOM, cause="out of memory"))
        assert [config.train.batch_size for config in here.ran] == [8, 4]

    @pytest.mark.slow
    def test_a_sweep_that_only_fails_ends(self, here):
        with pytest.raises(RunFailed, match=r"2 trials failed one after the other \(hydra\.sweeper\.max_failures\)"):
            here.sweep("lora.r=1,2,3,4,5", "hydra.sweeper.max_failures=2", act=fails_at(1, 2, 3, 4, 5))
        assert ranks(here.ran) == [1, 2]

    @pytest.mark.slow
    def test_failures_between_successes_do_not_end_it(self, here):
        with pytest.raises(RunFailed, match="2 of 4 trials failed"):
            here.sweep("lora.r=1,2,3,4", "hydra.sweeper.max_failures=2", act=fails_at(1, 3))
        assert ranks(here.ran) == [1, 2, 3, 4]


@pytest.mark.slow
def test_fresh_starts_the_study_over_and_keeps_the_results(here):
    here.sweep("lora.r=4,8")
    assert here.sweep("lora.r=4,8", "hydra.sweeper.fresh=true") == []
    assert [trial.number for trial in here.trials()] == [0, 1]
    assert len(here.tracker.runs) == 6  # a parent and two children each time


class TestTimeout:
    @pytest.mark.slow
    def test_no_trial_starts_when_the_time_is_up(self, here, monkeypatch, capsys):
        now = 0.0
        monkeypatch.setattr("lowrung.sweeps.agenda.time.monotonic", lambda: now)

        def act(config: Config) -> Outcome:
            nonlocal now
            now += 40
            return trains(config)

        assert ranks(here.sweep("lora.r=2,4,8", "hydra.sweeper.timeout=1m", act=act)) == [2, 4]
        printed = capsys.readouterr().out
        assert printed.count("hydra.sweeper.timeout=1m is over: no further trial starts") == 1
        assert ranks(here.sweep("lora.r=2,4,8", "hydra.sweeper.timeout=1m", act=act)) == [8]

    @pytest.mark.parametrize("timeout", ["soon", "0", "-5"])
    def test_what_is_no_duration(self, here, timeout):
        with pytest.raises(UsageError, match=r"hydra\.sweeper\.timeout must be seconds or a duration"):
            here.sweep("lora.r=2,4", f"hydra.sweeper.timeout={timeout}")


class TestDryRun:
    def test_it_says_what_would_be_run_and_leaves_nothing(self, here, capsys):
        here.sweep("lora.r=4,8", "seed=0,1", "hydra.sweeper.dry_run=true", slots=2)
        printed = capsys.readouterr().out
        assert "study s: 2 trials, 2 at a time" in printed
        assert [line.split() for line in printed.splitlines()[-4:-2]] == [
            ["4", "20", "0,1", "to", "train"],
            ["8", "20", "0,1", "to", "train"],
        ]
        assert here.ran == []
        assert not here.tracker.runs
        assert not Path("runs").exists()

    def test_no_empty_folder_stays(self, here, capsys):
        here.sweep("hydra.sweep.dir=elsewhere/deep", "hydra.sweeper.dry_run=true")
        assert "1 trial, 1 at a time" in capsys.readouterr().out
        assert not Path("elsewhere").exists()

    @pytest.mark.slow
    def test_what_is_in_the_store_is_told_apart(self, here, capsys):
        here.sweep("lora.r=4", "seed=0,1")
        here.sweep("lora.r=4,8", "seed=0,1,2", "study=t", "hydra.sweeper.dry_run=true")
        printed = capsys.readouterr().out
        assert "2 of 3 in the store\n" in printed
        assert "to train\n" in printed
        assert not Path("multirun/t").exists()

    def test_an_interval_is_shown_as_it_is(self, here, capsys):
        here.sweep("lora.r=4,8", RATE, "hydra.sweeper.dry_run=true", n_trials=6)
        assert capsys.readouterr().out.count("tag(log,interval(1e-05,0.1))") == 2


class TestConstraints:
    SMALL = 'hydra.sweeper.constraints={params/trainable:"<=400"}'

    def test_the_best_keeps_to_them(self, here, capsys):
        here.sweep("lora.r=2,4,8", self.SMALL)
        best, second, broken = json.loads(here.study.leaderboard.read_text())
        assert [row["point"]["lora.r"] for row in (best, second, broken)] == ["4", "2", "8"]
        assert broken["broken"] == ["params/trainable <= 400"]
        assert "not params/trainable <= 400" in capsys.readouterr().out
        (parent,) = (run for run in here.tracker.runs.values() if not run.parent)
        assert parent.tags["lowrung.best_trial"] == "1"

    @pytest.mark.slow
    def test_the_sampler_learns_of_them(self, here):
        here.sweep("lora.r=4,8", RATE, self.SMALL, n_trials=4)
        assert [(trial.params["lora.r"], trial.constraints) for trial in here.trials()] == [
            (r, {"params/trainable <= 400": 100 * r - 400}) for r in (4, 8, 4, 8)
        ]

    @pytest.mark.slow
    def test_other_ones_are_another_search(self, here):
        here.sweep("lora.r=4,8", self.SMALL)
        with pytest.raises(UsageError, match=r"params/trainable was <=400, and is not searched now"):
            here.sweep("lora.r=4,8")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{params/trainable:"<400"}', r"params/trainable must be <= or >= and a number, but is '<400'"),
            ('{params/trainable:"<=many"}', r"params/trainable must be <= or >= and a number, but is '<=many'"),
            ('{params/trainble:"<=4"}', r"Did you mean params/trainable"),
            ("[1]", r"must be pairs such as"),
            ('{forget/loss_delta:"<=0.05"}', r"Add verify\.forgetting=48"),
        ],
    )
    def test_what_is_none(self, here, text, message):
        with pytest.raises(UsageError, match=message):
            here.sweep("lora.r=4,8", f"hydra.sweeper.constraints={text}")


@pytest.mark.slow
def test_with_the_grid_sampler_an_interval_is_a_list(here):
    ran = here.sweep("lora.r=4,8", RATE, "hydra/sweeper/sampler=grid")
    rates = [1e-5, 1e-3, 1e-1]
    assert [(config.lora.r, config.train.learning_rate) for config in ran] == [
        (r, pytest.approx(rate)) for r in (4, 8) for rate in rates
    ]


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """The address of a server that runs for one test."""
    with pytest.importorskip("pgserver").get_server(tmp_path / "postgresql") as server:
        yield server.get_uri().replace("postgresql://postgres:@", "postgresql+psycopg2://postgres@")


class TestStorage:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
    def test_a_database_of_ones_own(self, here, request, kind):
        address = "sqlite:///all.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
        sweep = ["lora.r=4,8", f"hydra.sweeper.storage='{address}'"]
        here.sweep(*sweep)
        assert len(load_study(study_name="s", storage=address).trials) == 2
        assert here.sweep(*sweep) == []
        here.sweep(*sweep, "hydra.sweeper.fresh=true")
        assert len(load_study(study_name="s", storage=address).trials) == 2

    def test_a_file_that_is_no_database(self, here):
        here.study.path.mkdir(parents=True)
        here.study.database.write_text("a text")
        with pytest.raises(
            UsageError, match=r"multirun/s/study\.db does not: .*\. Name another file, or move this one"
        ):
            here.sweep("lora.r=4,8")
        assert here.study.database.read_text() == "a text"

    @pytest.mark.parametrize(
        ("storage", "message"),
        [
            ("postgresql://me:hunter2@there/x", "must hold no password"),
            ("redis://there", r"must be the address of a database \(sqlite://"),
            ("studies.db", "must be the address of a database"),
            ("postgresql+nodriver://localhost/x", r"[^.]\. Start it, or mend the address"),
            ("mysql+nodriver://localhost/x", "must be a database that opens, but this mysql"),
            ("sqlite:////proc/none/all.db", r"but /proc/none/all\.db does not: .*\. Name another file"),
        ],
    )
    def test_what_does_not_open(self, here, storage, message):
        with pytest.raises(UsageError, match=message) as caught:
            here.sweep("lora.r=4,8", f"hydra.sweeper.storage='{storage}'")
        assert "hunter2" not in str(caught.value)
        assert here.ran == []
