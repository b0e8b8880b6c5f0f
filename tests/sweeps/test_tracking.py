"""A sweep in the tracker: a parent, and a child for each run."""

import copy
import threading
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lowrung.__main__ import main
from lowrung.commands import candidates
from lowrung.errors import RunFailed
from lowrung.runs import task
from lowrung.store import addresses
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Status
from lowrung.sweeps import plots, queue
from lowrung.sweeps.results import Results
from lowrung.sweeps.tracking import SweepTracking
from lowrung.track import recording
from lowrung.track.base import TrackerLostError, TrackError
from lowrung.track.owed import Owed, RunRecord
from lowrung.track.pages import View
from lowrung.track.sender import Sender
from tests.stage import fails_at, interrupts_at, ranks, trains


class TestTracking:
    @pytest.mark.slow
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
        assert parent.params == {"lora.r": "4,8"}
        assert parent.tags["lowrung.trials.complete"] == "2"
        assert parent.tags["lowrung.best"] == "lora.r=8"
        assert "lora.r=8" in parent.tags["mlflow.note.content"]
        assert here.tracker.views["run0"] == View(["lora.r"], {"eval/loss": "minimize"})
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == "compare:  make ui, then http://127.0.0.1:5000/sweeps/s"

    @pytest.mark.slow
    def test_the_parent_shows_the_best_so_far(self, here):
        here.sweep("lora.r=4,8,2")
        parent = here.tracker.runs["run0"]
        losses = parent.history["eval/loss"]
        assert losses == {1: pytest.approx(losses[2] + 1), 2: losses[2], 3: losses[2]}
        assert parent.tags["lowrung.best_trial"] == "1"
        assert "leaderboard.json" in parent.artifacts

    @pytest.mark.parametrize("overrides", [["lora.r=8,4"], ["lora.r=8", "seed=0,1"]])
    def test_the_same_command_again_changes_nothing(self, here, overrides):
        """So that MLflow need not be imported for it; the best trial is the first one, and one of two seeds."""
        here.sweep("lora.r=4", "study=other")
        here.sweep(*overrides)
        before = copy.deepcopy(here.tracker.runs)
        assert here.sweep(*overrides) == []
        assert here.tracker.runs == before

    @pytest.mark.slow
    def test_of_runs_that_are_known_the_leaderboard_comes_first(self, here, monkeypatch):
        """Where a run between them is to be trained after all, the sweep is open for it."""
        here.sweep("lora.r=4,8", "study=other")
        report, before = Results.report, []

        def noted(results):
            before.append({run.name for run in here.tracker.runs.values()} - {"other"})
            report(results)

        monkeypatch.setattr(Results, "report", noted)
        assert here.sweep("lora.r=4,8") == []
        assert ranks(here.sweep("lora.r=4,2,8", "study=between")) == [2]
        of_other = {"lora.r=4", "lora.r=8"}
        assert before[0] == of_other
        assert before[1] >= {"s", "between", "lora.r=2"}
        for name in ("s", "between"):
            [(number, sweep)] = [(key, run) for key, run in here.tracker.runs.items() if run.name == name]
            assert sweep.status is Status.COMPLETE
            assert {run.name for run in here.tracker.runs.values() if run.parent == number} >= of_other

    @pytest.mark.slow
    def test_a_run_that_is_waited_for_is_one_of_a_sweep_that_is_open(self, here, monkeypatch):
        """Where a cluster has gone on with it, or another process trains it, this one does not start it."""
        here.sweep("lora.r=4,8", "study=other")
        monkeypatch.setattr(SweepTracking, "opening", lambda *_: None)
        names = []

        def act(config):
            names.append({run.name for run in here.tracker.runs.values()})
            return trains(config)

        here.sweep("lora.r=4,2,8", act=act)
        assert "s" in names[0]

    @pytest.mark.slow
    def test_what_is_interrupted_after_the_leaderboard_is_recorded_by_the_next_start(self, here, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        here.sweep("lora.r=4,8", "study=other")
        with monkeypatch.context() as patch:
            patch.setattr(Sender, "go_on", lambda _: None)
            patch.setattr(Sender, "drain", interrupted)
            with pytest.raises(KeyboardInterrupt):
                here.sweep("lora.r=4,8")
        assert "s" not in {run.name for run in here.tracker.runs.values()}
        owed = Owed.read(here.study.untracked)
        assert [run.opening.name for run in owed.runs] == ["lora.r=4", "lora.r=8"]
        assert here.sweep("lora.r=4,8") == []
        assert not here.study.untracked.exists()
        assert [run.status for run in here.tracker.runs.values() if run.name == "s"] == [Status.COMPLETE]

    @pytest.mark.slow
    def test_a_store_that_refuses_all_is_one_warning(self, here, monkeypatch, capsys):
        def refuses(*_, **__):
            raise TrackError("no such column")

        here.sweep("lora.r=2,4,8", "study=other")
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(here.tracker, "start_run", refuses)
            here.sweep("lora.r=2,4,8")
        printed = capsys.readouterr().out
        assert printed.count("no such column") == 1
        assert "warning: not tracked: lora.r=2, lora.r=4, lora.r=8, the sweep's end. lowrung sync s sends it" in printed

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
        def full_disk(*_, **__):
            raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(queue, "prepare_folder", full_disk)
            with pytest.raises(OSError, match="No space left"):
                here.sweep("lora.r=4")
        assert str(here.tracker.runs["run0"].status) == "cancelled"
        assert ranks(here.sweep("lora.r=4")) == [4]
        assert str(here.tracker.runs["run0"].status) == "complete"

    @pytest.mark.parametrize("call", ["start_run", "log", "set_tags", "end_run"])
    @pytest.mark.slow
    def test_a_tracker_that_is_lost_between_two_records_has_all_after_the_next_start(self, here, monkeypatch, call):
        done = getattr(here.tracker, call)

        def lost(*args, **kwargs):
            done(*args, **kwargs)
            raise TrackerLostError("database is locked")

        with monkeypatch.context() as patch:
            patch.setattr(here.tracker, call, lost)
            here.sweep("lora.r=4,8")
        assert here.study.untracked.exists()
        assert not here.sweep("lora.r=4,8")
        assert not here.study.untracked.exists()
        parent, *children = here.tracker.runs.values()
        assert len(children) == 2
        assert {run.status for run in (parent, *children)} == {Status.COMPLETE}

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

    @pytest.mark.slow
    def test_a_history_that_the_run_had_not_sent_is_whole_in_the_end(self, here):
        here.sweep("lora.r=8")  # simulated runs write their mailbox alone
        assert here.tracker.runs["run1"].history["train/loss"] == {1: 2.5}

    @pytest.mark.slow
    def test_what_a_lost_tracker_has_in_part_is_completed_by_sync(self, here, monkeypatch, capsys):
        def lost(*_):
            raise TrackerLostError("it is away")

        with monkeypatch.context() as patch:
            patch.setattr(here.tracker, "log_artifact", lost)
            here.sweep("lora.r=4,8")
        missing = "lora.r=4, lora.r=8, the sweep's end"
        assert f"\nwarning: not tracked: {missing}. lowrung sync s sends it.\n" in capsys.readouterr().out
        monkeypatch.setattr(recording, "made", lambda *_: here.tracker)
        for said in ("s: 2 runs sent to ", "nothing is missing in the tracker"):
            main(["sync"])
            assert capsys.readouterr().out.startswith(said)
        parent, *children = here.tracker.runs.values()
        assert [child.params["lora.r"] for child in children] == ["4", "8"]
        assert {run.status for run in (parent, *children)} == {Status.COMPLETE}
        assert all("outcome.json" in child.artifacts for child in children)
        assert {"leaderboard.json", "verdict.json"} <= parent.artifacts.keys()
        assert parent.metrics["eval/loss"] == children[1].metrics["eval/loss"]
        before = repr(children)
        here.sweep("lora.r=4,8")
        assert len(here.tracker.runs) == 3
        assert repr(children) == before

    @pytest.mark.slow
    def test_one_run_alone_waits_for_a_tracker_that_halts(self, here, monkeypatch):
        """As a server under SIGSTOP does. The others' processes are not to wait for it; the sweep sends them later."""
        goes_on, sent = threading.Event(), RunRecord.send

        def halts(*arguments):
            assert goes_on.wait(60)
            return sent(*arguments)

        def all_have_ended(_):
            goes_on.set()
            return []

        monkeypatch.setattr(RunRecord, "send", halts)
        monkeypatch.setattr(plots, "drawn", all_have_ended)
        here.returned = task.Ran(Status.COMPLETE, is_tracked=False)
        here.sweep("lora.r=4,8,2")
        assert [assignment.opening is None for assignment in here.assigned] == [False, True, True]
        assert {run.status for run in here.tracker.runs.values()} == {Status.COMPLETE}

    @pytest.mark.slow
    def test_a_run_that_was_refused_leaves_the_sweeps_own_end_as_it_is(self, here, monkeypatch, capsys):
        def refuses(*_):
            raise TrackError("no artifacts today")

        monkeypatch.setattr(recording, "made", lambda *_: here.tracker)
        with monkeypatch.context() as patch:
            patch.setattr(RunRecord, "send", refuses)
            here.sweep("lora.r=4")
        assert "\nwarning: not tracked: trial 0. lowrung sync s sends it.\n" in capsys.readouterr().out
        assert here.tracker.runs["run0"].status is Status.COMPLETE
        main(["sync"])
        assert {run.status for run in here.tracker.runs.values()} == {Status.COMPLETE}
        assert len(here.tracker.runs) == 2
        assert here.tracker.runs["run0"].tags["lowrung.best_trial"] == "0"

    @pytest.mark.slow
    def test_sync_sends_again_where_the_tracker_is_still_away(self, here, monkeypatch, capsys):
        def lost(*_):
            raise TrackerLostError("it is away")

        monkeypatch.setattr(here.tracker, "log_artifact", lost)
        here.sweep("lora.r=4")
        monkeypatch.setattr(recording, "made", lambda *_: here.tracker)
        for arguments, said in ((["s"], "s: it is away"), (["no"], "no must be a study or a run")):
            with pytest.raises(SystemExit):
                main(["sync", *arguments])
            assert said in capsys.readouterr().err
        assert here.study.untracked.exists()

    @pytest.mark.slow
    def test_a_run_that_has_tracked_itself_is_left_alone(self, here):
        here.returned = task.Ran(Status.COMPLETE, is_tracked=True)
        here.sweep("lora.r=8")
        child = here.tracker.runs["run1"]
        assert child.status is None  # the stand-in for its process has not closed it
        assert not child.history
        assert not child.artifacts

    @pytest.mark.slow
    def test_a_reused_result_has_its_history_in_the_new_study(self, here):
        here.sweep("lora.r=8")
        here.sweep("lora.r=8", "study=second")
        second = here.tracker.runs["run3"]
        assert second.tags["lowrung.study"] == "second"
        assert second.history["train/loss"] == {1: 2.5}
        assert second.metrics["eval/loss"] == here.tracker.runs["run1"].metrics["eval/loss"]

    @pytest.mark.slow
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
    def test_a_sweep_notes_the_store_of_its_environment(self, here, monkeypatch):
        """Later commands need not have the same environment; runs and studies are the same ones wherever tracked."""
        folders = []
        for uri in ("http://tracking:5000", "sqlite:///theirs.db"):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
            here.sweep("lora.r=4")
            noted = OmegaConf.load(here.study.path / "multirun.yaml").track
            assert (noted.uri, noted.experiment) == (uri, "mine")
            folders.append(here.study.job(0).run.resolve())
            monkeypatch.delenv("MLFLOW_TRACKING_URI")
            assert candidates.uri_of(RunFolder(folders[-1]), Path.cwd()) == addresses.absolute(uri, Path.cwd())
        assert folders[0] == folders[1]
        assert OmegaConf.load(RunFolder(folders[0]).config).track.uri == "http://tracking:5000"  # where it was trained
