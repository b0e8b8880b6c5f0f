"""The same command again: what is finished is kept, what was interrupted goes on."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from optuna import load_study
from optuna.trial import TrialState

from lowrung.config.schema import Config
from lowrung.errors import UsageError
from lowrung.store import layout
from lowrung.store.layout import StudyFolder
from lowrung.store.outcome import Outcome, Status
from tests.stage import RATE, SEEN, interrupts_at, leave, ranks, trains


class TestFresh:
    @pytest.mark.slow
    def test_an_answer_of_earlier_trials_is_gone_from_the_start(self, here):
        here.sweep("lora.r=4,8")
        assert here.study.leaderboard.exists()
        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=4,8,16", "hydra.sweeper.fresh=true", act=interrupts_at(16))
        assert not here.study.leaderboard.exists()
        assert not here.study.verdict.exists()


class TestReuse:
    @pytest.mark.slow
    def test_the_same_command_again_trains_nothing_and_says_the_same(self, here, capsys):
        """What the study has trained itself is not "reused" at its next start: a report would have no time for it."""
        here.sweep("lora.r=4")
        here.sweep("lora.r=4,8", "study=second")
        capsys.readouterr()
        study = StudyFolder(Path("multirun/second"))
        first = study.leaderboard.read_bytes()
        assert here.sweep("lora.r=4,8", "study=second") == []
        again = capsys.readouterr().out
        assert "2 trials, 2 done before" in again
        assert again.count("reused") == 1
        assert study.leaderboard.read_bytes() == first
        assert len(here.trials(study)) == 2

    @pytest.mark.slow
    def test_a_copied_store_does_not_change_what_is_reused(self, here, capsys):
        """What was reused is noted with the trial: times of files are lost in a copy, and differ between machines."""
        here.sweep("lora.r=4")
        here.sweep("lora.r=4,8", "study=second")
        for file in Path("runs").glob("*/outcome.json"):
            os.utime(file)
        capsys.readouterr()
        assert here.sweep("lora.r=4,8", "study=second") == []
        assert capsys.readouterr().out.count("reused") == 1

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
    def test_a_changed_model_is_another_study(self, here):
        here.sweep("lora.r=4,8")
        changed = dataclasses.replace(SEEN, model_fingerprint="another")
        with pytest.raises(UsageError, match="'s' was made for another: the content of its model has changed"):
            here.sweep("lora.r=4,8", seen=changed)
        assert ranks(here.sweep("lora.r=4,8", "hydra.sweeper.fresh=true", seen=changed)) == [4, 8]
        assert len(list(Path("runs").iterdir())) == 4

    @pytest.mark.slow
    def test_a_deleted_result_is_trained_anew_and_that_is_said(self, here, capsys):
        here.sweep("lora.r=4,8")
        (here.study.job(1).run / "outcome.json").unlink()
        assert "not counted" not in capsys.readouterr().out
        assert ranks(here.sweep("lora.r=4,8")) == [8]
        assert "trial 1 of an earlier start: not counted, since the results are gone, or" in capsys.readouterr().out
        assert here.sweep("lora.r=4,8") == []
        assert "not counted" not in capsys.readouterr().out

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


class TestForeignJobs:
    @pytest.mark.slow
    def test_another_run_in_a_trials_folder_is_not_the_trials(self, here):
        here.sweep("lora.r=4,8")
        job = here.study.job(1)
        run, overrides = job.run.readlink(), (job.path / ".hydra" / "overrides.yaml").read_text()
        (job.path / ".hydra" / "overrides.yaml").write_text("- lora.r=16\n")
        (job.path / "assignment.json").write_text("{}")  # of an older version
        layout.point_to(job.run, here.study.job(0).run)
        assert here.sweep("lora.r=4,8") == []
        assert job.run.readlink() == run
        assert (job.path / ".hydra" / "overrides.yaml").read_text() == overrides
        assert {row.point["lora.r"]: row.seeds[0].folder for row in here.results.trials}["8"] == str(job.run.resolve())

    @pytest.mark.slow
    def test_a_changed_adapter_is_trained_anew(self, here, capsys):
        here.sweep("lora.r=4,8")
        run = here.study.job(1).run.resolve()
        (run / "adapter").mkdir()
        (run / "adapter" / "adapter_model.safetensors").touch()
        assert ranks(here.sweep("lora.r=4,8")) == [8]
        assert f"warning: what is in {run} is not used" in capsys.readouterr().out
        assert here.sweep("lora.r=4,8") == []


class TestInterruption:
    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_a_result_that_was_left_but_not_told_is_taken_over(self, here):
        def act(config: Config) -> Outcome:
            (folder,) = Path("runs").iterdir()
            leave(trains(config), folder)
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
