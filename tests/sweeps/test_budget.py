"""Budgets: what a study may use, what it has used, and that nothing starts which would pass it."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from lowrung.config import signature
from lowrung.config.schema import Config
from lowrung.engine.base import Ended, Exit
from lowrung.errors import RunFailed
from lowrung.store import parts
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps import budget, spending, tries
from lowrung.track.base import TrackerLostError
from lowrung.track.owed import Owed
from tests.predicted import predicted
from tests.stage import RATE, Act, Died, InProcessEngine, Stage, interrupts_at, leave, ranks, trains

HOUR = 3600.0

CUT = r"trial 0 was cut 3[67]\d\d s after its start"
"""An hour, and what the machine took besides."""


class Clock:
    """The time of runs that take an hour for each rank, as was planned, or as many times that."""

    def __init__(self) -> None:
        self.now = 1e9
        self.set_by = 0.0

    def runs(self, act: Act = trains, times: float = 1.0) -> Act:
        def acting(config: Config) -> Outcome | None:
            self.now += config.lora.r * HOUR * times
            return act(config)

        return acting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("lowrung.sweeps.spending._now", lambda: made.now + made.set_by)
    monkeypatch.setattr("lowrung.sweeps.spending._counted", lambda: made.now)
    monkeypatch.setattr(
        "lowrung.runs.planned.predict", lambda config, *_, **__: predicted(seconds=config.lora.r * HOUR)
    )
    return made


def _budget(hours: float) -> str:
    return f"hydra.sweeper.budget={{cpu_hours:{hours}}}"


def _spent(here: Stage) -> float:
    return float(json.loads(here.study.verdict.read_text())["spent"]["spent/cpu_hours"])


class TestGrid:
    @pytest.mark.slow
    def test_no_run_starts_that_would_pass_it_but_a_smaller_one_may(self, here, clock, capsys):
        assert ranks(here.sweep("lora.r=4,8,3,1", _budget(9), act=clock.runs())) == [4, 3, 1]
        said = "hydra.sweeper.budget: 8 of 9 CPU hours spent; the next run needs 8 by the plan; the same command with"
        assert said in capsys.readouterr().out
        assert [trial.params["lora.r"] for trial in here.trials()] == [4, 3, 1]
        (warning,) = json.loads(here.study.verdict.read_text())["warnings"]  # and none that 4 is the largest one tried
        assert warning.startswith("1 of 4 trials have not been run. hydra.sweeper.budget: 8 of 9 CPU hours spent;")

    @pytest.mark.slow
    def test_the_same_command_with_a_larger_one_goes_on(self, here, clock, capsys):
        here.sweep("lora.r=4,8,3,1", _budget(9), act=clock.runs())
        assert ranks(here.sweep("lora.r=4,8,3,1", _budget(9), act=clock.runs())) == []
        assert "hydra.sweeper.budget: 8 of 9 CPU hours spent before" in capsys.readouterr().out
        assert ranks(here.sweep("lora.r=4,8,3,1", _budget(16), act=clock.runs())) == [8]
        assert "have not been run" not in here.study.verdict.read_text()
        assert _spent(here) == 16

    @pytest.mark.slow
    def test_a_dry_run_knows_what_was_spent_and_changes_nothing(self, here, clock):
        here.sweep("lora.r=4,8,3,1", _budget(9), act=clock.runs())
        before = here.study.database.read_bytes()
        for asked, spent in [((), 8), (("hydra.sweeper.fresh=true",), 0)]:
            here.sweep("lora.r=4,8,3,1", _budget(16), "hydra.sweeper.dry_run=true", *asked)
            assert (here.results.planned.budget.hours, here.results.planned.budget.spent) == (16, spent)
        assert here.study.database.read_bytes() == before

    @pytest.mark.slow
    @pytest.mark.parametrize("status", [Status.FAILED, Status.OOM])
    def test_a_point_without_a_result_in_the_store_does_not_keep_a_smaller_one_back(self, here, clock, status):
        def act(config: Config) -> Outcome:
            return Outcome(status, cause="no luck") if config.lora.r == 8 else trains(config)

        with pytest.raises(RunFailed):
            here.sweep("lora.r=8,2", "hydra.sweeper.on_oom=fail", _budget(99), n_trials=1, act=clock.runs(act))
        assert ranks(here.sweep("lora.r=8,2", _budget(11), act=clock.runs())) == [2]

    @pytest.mark.slow
    @pytest.mark.parametrize("hours", [-5, 5])
    def test_a_clock_that_is_set_meanwhile_is_no_use_of_it(self, here, clock, hours):
        def act(config: Config) -> Outcome:
            clock.set_by += hours * HOUR
            return trains(config)

        assert ranks(here.sweep("lora.r=4,3", _budget(7), act=clock.runs(act))) == [4, 3]
        assert _spent(here) == 7

    @pytest.mark.slow
    def test_running_runs_count_with_what_they_will_take(self, here, clock):
        assert ranks(here.sweep("lora.r=4,5,2", _budget(8), act=clock.runs(), slots=2)) == [4, 2]

    @pytest.mark.slow
    def test_a_run_that_takes_longer_counts_with_what_it_took(self, here, clock):
        assert ranks(here.sweep("lora.r=4,3,1", _budget(9), act=clock.runs(times=2.0))) == [4, 1]
        assert _spent(here) == 10

    @pytest.mark.slow
    @pytest.mark.parametrize(("of_plan", "is_refused"), [(1 / 8, False), (1.0, True)])
    def test_the_time_that_is_over_is_said_first_and_a_run_that_would_fit_now_is_not_blamed(
        self, here, clock, monkeypatch, of_plan, is_refused
    ):
        """Rank 4 does not fit beside 8 of 10 hours; the time is over when those have ended."""
        now = 0.0
        monkeypatch.setattr("lowrung.sweeps.agenda.time.monotonic", lambda: now)

        def act(config: Config) -> Outcome:
            nonlocal now
            now += 61
            return trains(config)

        limits = _budget(10), "hydra.sweeper.timeout=1m"
        assert ranks(here.sweep("lora.r=8,4", *limits, slots=2, act=clock.runs(act, times=of_plan))) == [8]
        (warning, *_) = json.loads(here.study.verdict.read_text())["warnings"]
        over = "1 of 2 trials have not been run. hydra.sweeper.timeout=1m is over; the same command goes on."
        budget = (
            " hydra.sweeper.budget: 8 of 10 CPU hours spent; the next run needs 4 by the plan; the same command with"
        )
        assert warning.startswith(over + budget * is_refused)
        assert ("hydra.sweeper.budget" in warning) == is_refused


class TestSpent:
    @pytest.mark.slow
    def test_it_is_in_the_leaderboard_the_tracker_and_the_last_lines(self, here, clock, capsys):
        priced = "hydra.sweeper.budget={cpu_hours:9,cost_per_hour:2.5}"
        here.sweep("lora.r=4,2", priced, act=clock.runs())
        assert "spent:    6 of 9 CPU hours, which cost 15.00 at 2.5 an hour" in capsys.readouterr().out
        rows = {row["point"]["lora.r"]: row for row in json.loads(here.study.leaderboard.read_text())}
        assert [rows[r]["spent/cpu_hours"] for r in "42"] == [4, 2]
        assert rows["4"]["spent/cost"] == 10
        parent = next(run for run in here.tracker.runs.values() if not run.parent)
        assert parent.history["spent/cpu_hours"] == {1: 4, 2: 6}
        assert parent.metrics["spent/cost"] == 15
        assert parent.tags["lowrung.spent"] == "6 of 9 CPU hours, which cost 15.00 at 2.5 an hour"

    @pytest.mark.slow
    def test_the_tracker_has_it_while_the_sweep_runs_and_where_it_was_interrupted(self, here, clock):
        seen: list[dict[int, float]] = []

        def act(config: Config) -> Outcome | None:
            seen.append(dict(here.tracker.runs["run0"].history.get("spent/cpu_hours", {})))
            return interrupts_at(1)(config)

        with pytest.raises(KeyboardInterrupt):
            here.sweep("lora.r=4,2,1,3", _budget(99), act=clock.runs(act))
        assert [each.get(1) for each in seen][-1] == 4
        parent = here.tracker.runs["run0"]
        assert parent.history["spent/cpu_hours"] == {1: 4, 2: 6, 3: 7}
        here.sweep("lora.r=4,2,1,3", _budget(99), act=clock.runs())
        assert parent.history["spent/cpu_hours"] == {1: 4, 2: 6, 3: 7, 4: 8, 5: 11}
        assert _spent(here) == 11

    @pytest.mark.slow
    def test_what_a_tracker_that_was_away_lacks_of_it_is_sent_later(self, here, clock, monkeypatch):
        def lost(*_, **__):
            raise TrackerLostError("database is locked")

        with monkeypatch.context() as patch:
            patch.setattr(here.tracker, "log", lost)
            here.sweep("lora.r=4,2", _budget(9), act=clock.runs())
        Owed.read(here.study.untracked).send(here.tracker)
        assert here.tracker.runs["run0"].metrics["spent/cpu_hours"] == 6

    @pytest.mark.slow
    def test_failed_lost_and_repeated_tries_count_and_results_of_the_store_do_not(self, here, clock):
        ends = iter([Died(), None, RuntimeError("no luck"), None])

        def act(config: Config) -> Outcome:
            if (end := next(ends)) is not None:
                raise end
            return trains(config)

        with pytest.raises(RunFailed):
            here.sweep("lora.r=2,4", _budget(99), act=clock.runs(act))
        assert _spent(here) == 2 + 2 + 4
        here.sweep("lora.r=2,4", _budget(99), act=clock.runs(act))
        assert _spent(here) == 2 + 2 + 4 + 4
        here.sweep("lora.r=2,4", "study=other", _budget(99), act=clock.runs(act))
        assert here.ran == []

    @pytest.mark.slow
    def test_what_was_spent_without_a_budget_counts_when_there_is_one(self, here, clock):
        here.sweep("lora.r=4,2", n_trials=1, act=clock.runs())
        assert ranks(here.sweep("lora.r=4,2", _budget(5), act=clock.runs())) == []
        assert _spent(here) == 4


@pytest.mark.slow
def test_a_drawn_trial_that_would_pass_it_is_the_next_starts_first(here, clock):
    first = here.sweep("lora.r=2", RATE, _budget(5), n_trials=4, act=clock.runs())
    assert len(first) == 2
    second = here.sweep("lora.r=2", RATE, _budget(9), n_trials=4, act=clock.runs())
    rates = [config.train.learning_rate for config in (*first, *second)]
    assert [trial.params["train.learning_rate"] for trial in here.trials()] == rates
    assert [trial.state.name for trial in here.trials()] == ["COMPLETE"] * 4


@pytest.mark.slow
def test_seeds_that_would_pass_it_wait_for_a_larger_one(here, clock):
    ran = here.sweep("lora.r=2", "seed=0,1,2", _budget(6), act=clock.runs(times=1.5))
    assert [config.seed for config in ran] == [0, 1]
    assert [config.seed for config in here.sweep("lora.r=2", "seed=0,1,2", _budget(8), act=clock.runs())] == [2]


def _kill_a_sweep(here: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills a sweep in its first run, an hour after that has begun."""
    monkeypatch.setattr("lowrung.sweeps.spending._now", lambda: time.time() - HOUR)  # its report comes an hour later

    def killed(config: Config) -> Outcome:
        os.kill(os.getpid(), signal.SIGKILL)
        return trains(config)

    child = os.fork()
    if not child:
        here.sweep("lora.r=2,4", act=killed)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    monkeypatch.setattr("lowrung.sweeps.spending._now", time.time)


@pytest.mark.slow
def test_a_run_that_was_cut_by_a_kill_counts_once_with_what_its_mailbox_shows(here, monkeypatch, capsys):
    _kill_a_sweep(here, monkeypatch)
    for _ in range(2):
        here.sweep("lora.r=2,4", _budget(99))
        assert _spent(here) == pytest.approx(1, abs=0.05)
    assert len(re.findall(f"{CUT}, by what its mailbox and its log", capsys.readouterr().out)) == 1


@pytest.mark.slow
def test_a_run_that_was_cut_is_named_where_nothing_starts_and_as_often(here, monkeypatch, capsys):
    _kill_a_sweep(here, monkeypatch)
    for _ in range(2):
        assert here.sweep("lora.r=2,4", _budget(0.5)) == []
        assert re.search(CUT, capsys.readouterr().out)


@pytest.mark.slow
def test_a_job_that_a_start_goes_on_with_was_not_cut(here, monkeypatch, capsys):
    _kill_a_sweep(here, monkeypatch)

    class Left:
        """A job that the killed sweep has left on a cluster, and that ends now."""

        def __init__(self, key: str, folder: RunFolder) -> None:
            self.key, self.folder = key, folder

        def wait(self) -> list[Ended]:
            leave(Outcome(Status.COMPLETE, {"base/eval_loss": 9.0, "eval/loss": 2.0}), self.folder.path)
            return [Ended(self.key, Exit.RETURNED)]

        def close(self) -> None:
            """Has nothing to close."""

    def adopt(engine: InProcessEngine, key: str, folder: Path) -> bool:
        is_left = (folder / "claim").exists()
        if is_left:
            engine._busy.append(Left(key, RunFolder(folder)))  # type: ignore[arg-type]
        return is_left

    monkeypatch.setattr(InProcessEngine, "adopt", adopt)
    assert ranks(here.sweep("lora.r=2,4", _budget(99))) == [4]
    assert "was cut" not in capsys.readouterr().out
    assert _spent(here) == pytest.approx(1, abs=0.05)


class TestWaiting:
    """Of a job on a cluster that waits for its GPUs."""

    job = tries.Try(1000.0, 1.0, 1)

    def test_it_begins_when_its_node_says_so_also_before_its_first_report(self, tmp_path):
        folder = RunFolder(tmp_path)
        assert tries.start_of(self.job, folder, waits=True) is None
        before = time.time()
        parts.Clock(folder)
        assert before <= (tries.start_of(self.job, folder, waits=True) or 0) <= time.time()
        folder.node.write_text("{}")
        os.utime(folder.node, (4000, 4000))
        assert tries.start_of(self.job, folder, waits=True) == 4000
        assert tries.start_of(self.job, folder, waits=False) == 1000

    def test_one_that_was_cut_before_it_began_took_nothing(self, tmp_path):
        facts = {"signature": "s", tries.TRIES: [self.job.written]}
        assert [(job.seconds, said) for job, said in tries.of_run(facts, tmp_path, waits=True)] == [(0.0, "")]


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [({"workers": 2}, False), ({"partition": None}, True), ({"address": None}, True), ({"address": "auto"}, True)],
)
def test_jobs_of_clusters_wait(launcher, expected):
    assert spending.waits(launcher) == expected


@pytest.mark.parametrize(
    ("launcher", "slots", "expected"),
    [
        ({"workers_per_gpu": 1, "gpus_per_trial": 1}, 4, 1),
        ({"workers_per_gpu": 2, "gpus_per_trial": 1}, 8, 0.5),
        ({"workers_per_gpu": 1, "gpus_per_trial": 2}, 2, 2),
        ({"workers_per_gpu": 1, "gpus_per_trial": 1}, 1, 1),
        ({"workers_per_gpu": "auto", "gpus_per_trial": 1}, 6, pytest.approx(2 / 3)),
        ({"gpus_per_trial": 0.5}, 8, 0.5),
        ({"partition": None, "gpus_per_trial": 4}, 8, 4),
    ],
)
def test_a_job_counts_with_its_part_of_the_gpus(monkeypatch, launcher, slots, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr("lowrung.config.signature.device_kind", lambda: "cuda")
    assert spending.gpus_of(launcher, slots) == expected


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (8, "must be pairs such as"),
        ({}, "must have one of gpu_hours and cpu_hours, but has none"),
        ({"cpu_hours": 0}, "hydra.sweeper.budget.cpu_hours must be a number above 0, but is 0"),
        ({"cpu_hours": -1}, "above 0, but is -1"),
        ({"cpu_hours": float("nan")}, "above 0, but is nan"),
        ({"cpu_hours": "8h"}, "above 0, but is '8h'"),
        ({"cpu_hours": True}, "above 0, but is True"),
        ({"gpu_hour": 8}, "but is 'gpu_hour'. Did you mean gpu_hours"),
        ({"cpu_hours": 8, "gpu_hours": 8}, "but has gpu_hours and cpu_hours"),
        ({"cost_per_hour": 2}, "but has none"),
        ({"cpu_hours": 8, "cost_per_hour": -2}, "cost_per_hour must be a number of at least 0, but is -2"),
    ],
)
def test_what_is_no_budget_is_said(monkeypatch, written, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert any(said in problem for problem in budget.problems(written))


def test_gpu_hours_need_runs_on_gpus_which_a_login_node_may_not_have(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (said,) = budget.device_problems({"gpu_hours": 8})
    assert "needs GPUs, but the runs use the CPU" in said
    with signature.jobs_on("cuda"):
        assert not list(budget.device_problems({"gpu_hours": 8}))


def test_all_that_is_wrong_is_said_at_once():
    assert len(list(budget.problems({"cpu_hours": 0, "cost_per_hour": -1, "euros": 3}))) == 3


@pytest.mark.parametrize("written", [None, {"cpu_hours": 0.5}, {"cpu_hours": 8, "cost_per_hour": 0}])
def test_a_budget_is_taken(written):
    assert not list(budget.problems(written))
