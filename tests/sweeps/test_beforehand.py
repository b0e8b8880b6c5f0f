"""What the plan decides before a run starts: planned constraints, and what does not fit into memory."""

import dataclasses
import json
from functools import partial

import pytest
from optuna.trial import TrialState

from lowrung.__main__ import main
from lowrung.commands import report
from lowrung.config.schema import Config
from lowrung.costs.prediction import Prediction
from lowrung.engine.assumed import Machine, assume
from lowrung.errors import RunFailed, UsageError
from lowrung.search.study import Study
from lowrung.store.outcome import Outcome, Status
from lowrung.studies import reading
from lowrung.sweeps import plan
from lowrung.sweeps.room import Room
from tests.predicted import predicted
from tests.stage import RATE, HadNoMemory, ranks, trains

GB = 1e9


def _planned(config: Config, *_: object, **__: object) -> Prediction:
    """A run whose batch takes a GB for each example, and whose parameters and minutes follow from its rank."""
    peak = GB * config.train.batch_size
    return predicted(trainable=100 * config.lora.r, memory_bytes=peak, seconds=60.0 * config.lora.r)


@pytest.fixture(autouse=True)
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrung.runs.planned.predict", _planned)
    _has(monkeypatch, None)


def _has(monkeypatch: pytest.MonkeyPatch, gb: float | None) -> None:
    """Gives each run this much memory."""
    there = Room(None if gb is None else gb * GB, None, "main memory", 1)
    monkeypatch.setattr("lowrung.sweeps.room.of_run", lambda *_, **__: there)


def _limited(text: str) -> str:
    return f"hydra.sweeper.constraints={{{text}}}"


def _batches(configs: list[Config]) -> list[tuple[int, int]]:
    return [(config.train.batch_size, config.train.gradient_accumulation_steps) for config in configs]


LOCAL = "hydra_plugins.lowrung.local_launcher.LocalLauncher"
SLURM = "hydra_plugins.lowrung.slurm_launcher.SlurmLauncher"
RAY = "hydra_plugins.lowrung.ray_launcher.RayLauncher"


@pytest.mark.parametrize(
    ("launcher", "elsewhere"),
    [
        ({"_target_": LOCAL}, False),
        ({"_target_": SLURM, "partition": None}, True),
        ({"_target_": RAY, "address": None}, False),
        ({"_target_": RAY, "address": "auto"}, True),
        ({}, False),
    ],
)
def test_runs_on_a_clusters_nodes_compute_elsewhere(launcher, elsewhere):
    assert plan.is_elsewhere(launcher) is elsewhere
    with assume(Machine(1, None, None)):
        assert not plan.is_elsewhere(launcher)


@pytest.mark.slow
def test_runs_that_compute_elsewhere_are_predicted_as_such(here, monkeypatch):
    told = set()

    def planned(config: Config, *_: object, is_elsewhere: bool) -> Prediction:
        told.add(is_elsewhere)
        return _planned(config)

    monkeypatch.setattr("lowrung.runs.planned.predict", planned)
    monkeypatch.setattr("lowrung.sweeps.plan.is_elsewhere", lambda _: True)
    here.sweep("lora.r=8")
    assert told == {True}


class TestConstraints:
    @pytest.mark.slow
    def test_a_point_that_breaks_one_is_left_out_and_shown(self, here, capsys):
        limited = _limited('plan/seconds:"<=300"')
        assert ranks(here.sweep("lora.r=4,8,2", limited)) == [4, 2]
        printed = capsys.readouterr().out
        assert (
            "note: left out: 1 of 3 points: lora.r=8 (by the plan plan/seconds is 480, and must be <= 300)" in printed
        )
        rows = {row["point"]["lora.r"]: row for row in json.loads(here.study.leaderboard.read_text())}
        assert (rows["8"]["status"], rows["8"]["measurements"]["plan/seconds"]) == ("skipped", 480)
        assert rows["8"]["broken"] == ["plan/seconds <= 300"]
        assert [rows[r]["broken"] for r in "42"] == [[], []]

    @pytest.mark.slow
    def test_the_same_command_again_leaves_it_out_again(self, here, capsys):
        for _ in range(2):
            here.sweep("lora.r=4,8,2", _limited('params/trainable:"<=500"'))
            assert json.loads(here.study.leaderboard.read_text())[-1]["status"] == "skipped"
        assert here.ran == []
        assert len(here.trials()) == 3

    @pytest.mark.slow
    def test_drawn_trials_that_break_one_are_replaced_and_the_sampler_learns_them(self, here):
        searched = "lora.r=int(interval(1,16))"
        assert max(ranks(here.sweep(searched, _limited('plan/seconds:"<=300"'), n_trials=5))) <= 5
        assert [trial.state for trial in here.trials()].count(TrialState.COMPLETE) == 5  # a rank may be drawn twice
        left_out = [trial for trial in here.trials() if trial.user_attrs["status"] == "skipped"]
        assert {trial.state for trial in left_out} == {TrialState.PRUNED}
        assert all(trial.constraints["plan/seconds <= 300"] > 0 for trial in left_out)
        assert here.sweep(searched, _limited('plan/seconds:"<=300"'), n_trials=5) == []

    @pytest.mark.slow
    def test_trials_that_are_replaced_are_none_of_those_that_were_asked_for(self, here, monkeypatch, capsys):
        """The time is over after two runs, and after one more in the next start."""
        now = 0.0
        monkeypatch.setattr("lowrung.sweeps.agenda.time.monotonic", lambda: now)

        def act(seconds: float, config: Config) -> Outcome:
            nonlocal now
            now += seconds
            return trains(config)

        limits = _limited('plan/seconds:"<=300"'), "hydra.sweeper.timeout=1m"
        for seconds, done in ((31, 2), (61, 3), (0, 9)):
            here.sweep("lora.r=int(interval(1,16))", *limits, n_trials=9, act=partial(act, seconds))
            left_out, left = len(here.trials()) - done, 9 - done
            assert left_out > 0
            capsys.readouterr()
            main(["studies"])
            begun = f"  {done} complete, {left_out} skipped" + f", {left} not begun" * bool(left)
            state = "partial" if left else "complete"
            (row,) = capsys.readouterr().out.splitlines()[1:]
            assert f"  {state}" in row
            assert f"{begun}  " in row
            found = reading.read(here.study)
            assert (found.total, found.state) == (9 + left_out, state)
            so_far = f"is partial: {done + left_out} of {9 + left_out} trials have ended"
            assert (so_far in report.shown(found)) == bool(left)
            said = f"{left} of {9 + left_out} trials have not been run"
            assert (said in here.study.verdict.read_text()) == bool(left)

    @pytest.mark.slow
    def test_a_point_to_be_tried_first_that_is_left_out_is_not_asked_for_again(self, here, capsys):
        asked = ("lora.r=int(interval(1,16))", "hydra.sweeper.first=[{lora.r:16}]", _limited('plan/seconds:"<=600"'))
        here.sweep(*asked, n_trials=2)
        assert here.sweep(*asked, n_trials=2) == []
        assert "not tried" not in capsys.readouterr().out
        assert [trial.params["lora.r"] for trial in here.trials()].count(16) == 1

    @pytest.mark.slow
    def test_a_search_in_which_nothing_may_be_run_ends(self, here, monkeypatch, capsys):
        monkeypatch.setattr("lowrung.sweeps.stage_trials.MOST_IN_VAIN", 6)
        monkeypatch.setattr("lowrung.sweeps.coordinator.MOST_IN_VAIN", 6)
        for _ in range(2):  # the next start draws no more
            with pytest.raises(RunFailed, match=r"the plan leaves out 6, the last since plan/seconds is 240, and must"):
                here.sweep("lora.r=4", RATE, _limited('plan/seconds:"<=1"'), n_trials=4)
            assert len(here.trials()) == 6
        assert "6 drawn trials in a row may not be run, the last since by the plan" in capsys.readouterr().out
        assert here.ran == []

    @pytest.mark.slow
    def test_a_search_that_gives_up_says_how_many_trials_it_lacks_and_why(self, here, monkeypatch):
        """Rank 1 alone may be run."""
        monkeypatch.setattr("lowrung.sweeps.stage_trials.MOST_IN_VAIN", 3)
        monkeypatch.setattr("lowrung.sweeps.coordinator.MOST_IN_VAIN", 3)
        asked = ("lora.r=int(interval(1,16))", "hydra.sweeper.first=[{lora.r:1}]", _limited('plan/seconds:"<=60"'))
        for ran in ([1], []):  # the next start draws no more
            assert ranks(here.sweep(*asked, n_trials=4)) == ran
            states = [trial.state for trial in here.trials()]
            left_out, done = states.count(TrialState.PRUNED), states.count(TrialState.COMPLETE)
            assert states[-3:] == [TrialState.PRUNED] * 3
            warning = json.loads(here.study.verdict.read_text())["warnings"][0]
            assert warning.startswith(f"{4 - done} of {4 + left_out} trials have not been run. 3 drawn trials in a row")
            assert reading.read(here.study).state == "partial"

    @pytest.mark.slow
    def test_what_leaves_all_out_is_said_be_it_memory_or_a_constraint(self, here, monkeypatch):
        """Drawn batches of 4 do not fit, even as the smallest ones; that of 2 does, by the plan."""
        monkeypatch.setattr("lowrung.sweeps.stage_trials.MOST_IN_VAIN", 2)
        monkeypatch.setattr("lowrung.sweeps.coordinator.MOST_IN_VAIN", 2)
        _has(monkeypatch, 1.5)

        def act(config: Config) -> Outcome:
            raise HadNoMemory

        searched = ("lora.r=4", RATE, "train.batch_size=8", "hydra.sweeper.on_oom=skip")
        with pytest.raises(RunFailed) as said:
            here.sweep(*searched, n_trials=2)
        needs = "the plan leaves out 2, the last since it needs 8.00 GB, of 1.50 GB main memory"
        assert str(said.value).startswith(f"No trial has a result: {needs}. Loosen hydra.sweeper.constraints, lower")
        united = "hydra.sweeper.spaces=[{train.batch_size:2},{train.batch_size:8}]"
        with pytest.raises(RunFailed) as said:
            here.sweep("study=both", "lora.r=4", RATE, united, "hydra.sweeper.on_oom=skip", n_trials=2, act=act)
        assert "of 1.50 GB main memory; 1 ran out of memory" in str(said.value)

    @pytest.mark.slow
    def test_what_a_deadline_has_kept_from_running_is_not_the_plans_fault(self, here, monkeypatch):
        now = 0.0
        monkeypatch.setattr("lowrung.sweeps.agenda.time.monotonic", lambda: now)

        def planned(config: Config, *_: object, **__: object) -> Prediction:
            nonlocal now
            now += 40 * (config.lora.r == 16 and bool(here.trials()))
            return _planned(config)

        monkeypatch.setattr("lowrung.runs.planned.predict", planned)
        asked = "lora.r=16,8", _limited('params/trainable:"<=1000"')
        here.sweep(*asked, "hydra.sweeper.timeout=1s")
        assert here.ran == []
        assert ranks(here.sweep(*asked)) == [8]

    def test_a_grid_in_which_nothing_may_be_run_is_refused(self, here):
        with pytest.raises(UsageError, match=r"of these none may: 2 of 2 points: lora.r=4 \(by the plan plan/seconds"):
            here.sweep("lora.r=4,8", _limited('plan/seconds:"<=1"'))
        assert here.ran == []

    @pytest.mark.slow
    def test_parameters_of_eva_are_known_once_it_has_run(self, here):
        assert len(here.sweep("lora=eva", "lora.r=8,4", _limited('params/trainable:"<=500"'))) == 2

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('plan/memory:"<=1"', "Did you mean plan/memory_bytes"),
            ('plan/unknown:"<=1"', "must be one of"),
            ('plan/seconds:"1"', "must be <= or >= and a number"),
        ],
    )
    def test_what_is_not_planned_is_refused(self, here, text, said):
        with pytest.raises(UsageError, match=said):
            here.sweep("lora.r=4", _limited(text))


class TestMemory:
    @pytest.mark.parametrize(("gb", "batches"), [(8, (8, 1)), (7, (4, 2)), (3, (2, 4)), (1, (1, 8))])
    @pytest.mark.slow
    def test_batches_are_halved_until_the_plan_fits(self, here, monkeypatch, gb, batches):
        _has(monkeypatch, gb)
        said = f"smaller batches than asked for: too large by the plan; batch_size {batches[0]}, gradient_accumulation"
        for ran in ([batches], []):
            assert _batches(here.sweep("lora.r=8")) == ran
            assert (said in " ".join(json.loads(here.study.verdict.read_text())["warnings"])) == (gb < 8)

    @pytest.mark.slow
    def test_a_run_that_is_out_of_memory_all_the_same_is_halved_once_more(self, here, monkeypatch):
        _has(monkeypatch, 7)

        def act(config: Config) -> Outcome:
            return trains(config) if config.train.batch_size < 4 else Outcome(Status.OOM, cause="out of memory")

        assert _batches(here.sweep("lora.r=8", act=act)) == [(4, 2), (2, 4)]
        assert here.sweep("lora.r=8") == []

    @pytest.mark.slow
    @pytest.mark.parametrize(("gb", "batch"), [(7, (4, 2)), (8, (8, 1))])
    def test_a_kill_while_seeds_are_halved_leaves_them_alike(self, here, monkeypatch, gb, batch):
        def dies(study: Study, trial: object, seed: int, **facts: object) -> object:
            if seed == 1 and facts.get("by_plan"):
                raise MemoryError("killed")
            return note(study, trial, seed, **facts)  # type: ignore[arg-type]

        note = Study.note_run
        with monkeypatch.context() as patched:
            _has(patched, 7)
            patched.setattr(Study, "note_run", dies)
            with pytest.raises(MemoryError):
                here.sweep("lora.r=8", "seed=0,1")
        _has(monkeypatch, gb)
        assert _batches(here.sweep("lora.r=8", "seed=0,1")) == [batch, batch]
        assert here.sweep("lora.r=8", "seed=0,1") == []

    @pytest.mark.slow
    def test_a_budget_counts_what_a_halved_run_takes(self, here, monkeypatch):
        def planned(config: Config, *_: object, **__: object) -> Prediction:
            return dataclasses.replace(_planned(config), seconds=3600.0 * config.train.batch_size)

        _has(monkeypatch, 4)
        monkeypatch.setattr("lowrung.runs.planned.predict", planned)
        assert _batches(here.sweep("lora.r=8", "hydra.sweeper.budget={cpu_hours:5}")) == [(4, 2)]

    @pytest.mark.slow
    def test_what_does_not_fit_with_the_smallest_batches_is_left_out(self, here, monkeypatch):
        _has(monkeypatch, 2)
        assert _batches(here.sweep("train.batch_size=8,3", "lora.r=8")) == [(2, 4)]  # 3 rows cannot be halved
        assert [trial.user_attrs["status"] for trial in here.trials()] == ["complete", "skipped"]

    @pytest.mark.parametrize(("gb", "sizes"), [(5.7, [8, 4]), (5.5, [4]), (8, [8, 4])])
    @pytest.mark.slow
    def test_skip_leaves_out_what_is_sure_not_to_fit(self, here, monkeypatch, gb, sizes):
        _has(monkeypatch, gb)
        ran = here.sweep("train.batch_size=8,4", "hydra.sweeper.on_oom=skip")
        assert [config.train.batch_size for config in ran] == sizes

    @pytest.mark.slow
    def test_skip_leaves_out_what_was_out_of_memory(self, here):
        def act(config: Config) -> Outcome:
            return trains(config) if config.lora.r == 4 else Outcome(Status.OOM, cause="out of memory")

        assert ranks(here.sweep("lora.r=8,4", "hydra.sweeper.on_oom=skip", act=act)) == [8, 4]
        assert json.loads(here.study.leaderboard.read_text())[-1]["status"] == "skipped"
        assert here.sweep("lora.r=8,4", "hydra.sweeper.on_oom=skip", act=act) == []

    @pytest.mark.slow
    def test_a_process_that_the_system_has_ended_was_out_of_memory(self, here, capsys):
        def act(config: Config) -> Outcome:
            if config.train.batch_size > 2:
                raise HadNoMemory
            return trains(config)

        ran = here.sweep("train.batch_size=4,2", act=act)
        assert [config.train.batch_size for config in ran] == [4, 2, 2]
        assert "memory ran out; read " in (said := capsys.readouterr().out)
        assert "tried again with half the batch" in said

    @pytest.mark.slow
    @pytest.mark.parametrize(("on_oom", "status"), [("skip", "skipped"), ("fail", "oom")])
    def test_and_is_left_out_or_fails_without_another_try(self, here, on_oom, status):
        def act(config: Config) -> Outcome:
            raise HadNoMemory

        skipped = "No trial has a result: 1 ran out of memory, and hydra.sweeper.on_oom=skip leaves such out. Lower"
        said = skipped if on_oom == "skip" else "1 of 1 trials failed"
        with pytest.raises(RunFailed, match=said):
            here.sweep("lora.r=8", f"hydra.sweeper.on_oom={on_oom}", act=act)
        assert len(here.ran) == 1
        assert json.loads(here.study.leaderboard.read_text())[-1]["status"] == status
        assert here.tracker.runs["run0"].status is Status.FAILED

    @pytest.mark.slow
    def test_fail_names_all_that_do_not_fit_and_starts_nothing(self, here, monkeypatch):
        _has(monkeypatch, 2.5)
        with pytest.raises(UsageError) as refused:
            here.sweep("train.batch_size=8,2,4", "hydra.sweeper.on_oom=fail")
        assert "2 of 3 points: train.batch_size=8 (by the plan it needs 8.00 GB, of 2.50 GB main memory)" in str(
            refused.value
        )
        assert "train.batch_size=4" in str(refused.value)
        assert here.ran == []

    @pytest.mark.slow
    def test_fail_tries_nothing_again_that_was_out_of_memory(self, here):
        with pytest.raises(RunFailed):
            here.sweep("lora.r=8", "hydra.sweeper.on_oom=fail", act=lambda config: Outcome(Status.OOM, cause="full"))
        assert len(here.ran) == 1

    @pytest.mark.slow
    def test_a_result_that_is_in_the_store_has_had_its_memory(self, here, monkeypatch):
        here.sweep("lora.r=8")
        _has(monkeypatch, 0.1)
        assert here.sweep("lora.r=8") == []
        assert [trial.state for trial in here.trials()] == [TrialState.COMPLETE]


def test_another_word_for_on_oom_is_refused(here):
    with pytest.raises(UsageError, match=r"hydra\.sweeper\.on_oom must be one of skip, halve, fail, but is 'maybe'"):
        here.sweep("lora.r=4", "hydra.sweeper.on_oom=maybe")


@pytest.mark.slow
def test_a_budget_of_less_than_one_run_is_refused(here):
    with pytest.raises(UsageError, match=r"must be enough for one run, but is 0\.05, and the smallest needs 0\.0667"):
        here.sweep("lora.r=4,8", "hydra.sweeper.budget={cpu_hours:0.05}")
