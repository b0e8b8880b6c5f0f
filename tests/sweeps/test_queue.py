"""Runs on their way to their outcomes: slots, lost processes, other sweeps, runs with equal signatures."""

import json
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from optuna.trial import TrialState

from lowrung.config.schema import Config
from lowrung.engine.base import Ended, Engine, Exit, Job
from lowrung.errors import RunFailed
from lowrung.runs.folder import kept_outcome
from lowrung.runs.parallel import LOST
from lowrung.store import atomic, layout, parts, results
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps import coordinator, queue
from tests import stage
from tests.stage import fails_at, leave, ranks, trains


@pytest.mark.slow
def test_several_slots_are_filled(here):
    assert sorted(ranks(here.sweep("lora.r=2,4,8", slots=2))) == [2, 4, 8]
    assert here.engine.most_at_once == 2


@pytest.mark.slow
def test_what_hydra_leaves_behind(here):
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
def test_a_custom_subfolder_is_respected(here):
    here.sweep("lora.r=4,8", "hydra.sweep.subdir=job-${hydra.job.num}")
    assert (here.study.path / "job-1" / "run" / "outcome.json").is_file()
    assert not here.study.job(1).path.exists()


class TestOutcome:
    def test_a_task_that_leaves_no_outcome_has_failed(self, here):
        with pytest.raises(RunFailed, match=r"the run left no outcome; read .*log\.txt"):
            here.sweep("lora.r=4", act=lambda config: None)
        assert here.trials()[0].user_attrs["status"] == "failed"

    def test_a_task_that_leaves_no_outcome_has_the_time_that_its_folder_shows(self, here):
        def act(config: Config) -> None:
            (folder,) = Path("runs").iterdir()
            parts.Clock(RunFolder(folder)).stop()

        with pytest.raises(RunFailed):
            here.sweep("lora.r=4", act=act)
        (folder,) = Path("runs").iterdir()
        (row,) = json.loads(here.study.leaderboard.read_text())
        assert row["measurements"]["time/total_seconds"] == parts.so_far(RunFolder(folder))[0].seconds

    def test_the_outcome_is_trusted_before_the_end_of_the_process(self, here, capsys):
        """A run may leave its result and then break, in a destructor of some library, say."""

        def act(config: Config) -> Outcome:
            (folder,) = Path("runs").iterdir()
            leave(trains(config), folder)
            raise RuntimeError("too late")

        here.sweep("lora.r=4", act=act)
        assert here.trials()[0].state is TrialState.COMPLETE


class TestTwins:
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


class TestLostProcesses:
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
    def test_one_that_was_told_to_stop_by_nobody_here_is_lost_too(self, here, capsys):
        """A scheduler, or `kill`, sends SIGTERM to the worker alone; it ends with a checkpoint."""

        def act(config: Config) -> Outcome:
            return trains(config) if len(here.ran) > 1 else Outcome(Status.CANCELLED, cause="stopped at step 1")

        assert ranks(here.sweep("lora.r=4", act=act)) == [4, 4]
        assert "its process was lost (it was told to stop); tried again" in capsys.readouterr().out

    @pytest.mark.slow
    def test_a_run_that_lost_one_of_its_ranks_is_lost_too(self, here, capsys):
        lost = Outcome(Status.FAILED, cause="rank 1 of 2 was lost (SIGKILL)", facts={LOST: 1})
        assert ranks(here.sweep("lora.r=4", act=lambda config: trains(config) if len(here.ran) > 1 else lost)) == [4, 4]
        assert "its process was lost (rank 1 of 2 was lost (SIGKILL)); tried again" in capsys.readouterr().out

    @pytest.mark.slow
    def test_as_often_as_was_asked_for(self, here):
        def act(config: Config) -> Outcome:
            raise stage.Died

        with pytest.raises(RunFailed, match="SIGKILL"):
            here.sweep("lora.r=4", "hydra.sweeper.retries=2", act=act)
        assert ranks(here.ran) == [4, 4, 4]

    @pytest.mark.slow
    def test_an_eviction_after_progress_does_not_count(self, here, capsys):
        """Preemption may come any number of times, but what never gets to its next checkpoint would go on forever."""

        def act(config: Config) -> Outcome:
            (run,) = Path("runs").iterdir()
            checkpoint = RunFolder(run).checkpoints / f"checkpoint-{len(here.ran)}"
            checkpoint.mkdir(parents=True)
            if len(here.ran) <= 3:  # the later ones are torn: nothing goes on from them
                (checkpoint / layout.CHECKPOINT_MARK).touch()
            raise stage.Evicted

        with pytest.raises(RunFailed, match="another job took its node"):
            here.sweep("lora.r=4", "hydra.sweeper.retries=1", act=act)
        assert ranks(here.ran) == [4] * 5
        said = capsys.readouterr().out
        assert "another job took its node; goes on from step 3" in said
        assert said.count("its process was lost (another job took its node); tried again") == 1

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
def test_a_run_that_another_sweep_trains_is_waited_for(here, monkeypatch):
    (config,) = here.sweep("lora.r=8")
    (run,) = Path("runs").iterdir()
    (run / "outcome.json").unlink()
    (run / "adapter").mkdir()
    held = ExitStack()
    held.enter_context(atomic.lock(run / ".lock"))

    def the_other_ends(seconds):
        """Stands where the sweep waits for a while."""
        assert (run / "adapter").is_dir()
        leave(trains(config), run)
        held.close()

    monkeypatch.setattr("lowrung.sweeps.queue.time.sleep", the_other_ends)
    monkeypatch.setattr(coordinator, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(queue, "CHECK_SECONDS", 0.0)
    assert here.sweep("lora.r=8", "study=second") == []
    assert (run / "adapter").is_dir()
    assert [trial.state for trial in here.trials(StudyFolder(Path("multirun/second")))] == [TrialState.COMPLETE]


@pytest.mark.slow
def test_a_run_whose_folder_another_sweep_took_is_waited_for(here, monkeypatch):
    """The other one takes it after this one has prepared it, and before the job holds its lock."""

    def act(config: Config) -> Outcome | None:
        if len(here.ran) > 1:
            return trains(config)
        (run,) = (RunFolder(path) for path in Path("runs").iterdir())
        mine = run.claim.read_text()
        results.claim(run)
        results.require_claim(run, mine)
        return None

    monkeypatch.setattr(queue, "CHECK_SECONDS", 0.0)
    assert ranks(here.sweep("lora.r=8", "hydra.sweeper.retries=0", act=act)) == [8, 8]
    assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE]


@pytest.mark.slow
def test_what_a_killed_run_had_not_deleted_goes(here):
    def act(config: Config) -> Outcome:
        (folder,) = (RunFolder(path) for path in Path("runs").iterdir())
        for path in (folder.checkpoints / "checkpoint-1", folder.scratch / "merged"):
            path.mkdir(parents=True)
        return trains(config)

    here.sweep("lora.r=8", act=act)
    (run,) = Path("runs").iterdir()
    assert not RunFolder(run).checkpoints.exists()
    assert not RunFolder(run).scratch.exists()


def test_the_tests_own_engine_is_an_engine(tmp_path):
    engine: Engine = stage.InProcessEngine(slots=2)
    for key in ("a", "b"):
        engine.submit(Job(key, tmp_path / key, partial(str.upper, key)))
    ended = [event for _ in range(2) for event in engine.wait()]
    assert ended == [Ended("a", Exit.RETURNED, "A"), Ended("b", Exit.RETURNED, "B")]
    assert engine.wait() == []
    engine.close()
