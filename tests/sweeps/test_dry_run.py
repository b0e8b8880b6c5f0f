"""What a dry run shows."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from lowrung.commands.trained import TrainedSweep
from lowrung.config import schema
from lowrung.costs.sizes import BaseSizes, RowSizes
from lowrung.errors import UsageError
from lowrung.report.planned import PlannedSweep
from lowrung.report.printer import plain
from lowrung.sweeps.predicting import _Counting
from tests.stage import RATE, SEEN, Stage, sized_at


class TestDryRun:
    def test_it_says_what_would_be_run_and_leaves_nothing(self, here, capsys):
        here.sweep("lora.r=4,8", "seed=0,1", "hydra.sweeper.dry_run=true", slots=2)
        printed = capsys.readouterr().out
        assert "study s: 2 trials, 2 at a time" in printed
        assert [line.split() for line in printed.splitlines() if line.endswith("to train")] == [
            ["4", "20", "0,1", "to", "train"],
            ["8", "20", "0,1", "to", "train"],
        ]
        assert "memory  not known" in printed
        assert here.ran == []
        assert not here.tracker.runs
        assert not Path("runs").exists()

    def test_no_empty_folder_stays(self, here, capsys):
        here.sweep("hydra.sweep.dir=elsewhere/deep", "hydra.sweeper.dry_run=true")
        assert "1 trial, 1 at a time" in capsys.readouterr().out
        assert not Path("elsewhere").exists()

    def test_what_a_killed_preflight_has_left_goes(self, here):
        left = Path("elsewhere/deep/preflight")
        left.mkdir(parents=True)
        (left / "log.txt").touch()
        here.sweep("hydra.sweep.dir=elsewhere/deep", "hydra.sweeper.dry_run=true")
        assert list(Path("elsewhere").iterdir()) == []

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


ROWS = RowSizes(512, (200,) * 101, (50,) * 101)
SIZED = dataclasses.replace(
    SEEN,
    base=BaseSizes(parameters=10**9, quantizable=9 * 10**8, largest=10**7, width=2000, vocabulary=50_000),
    rows=(ROWS, ROWS),
    flops_per_second=1e12,
)
"""What the preflight finds of a model with a billion weights. Sizes of adapters are counted when they are asked for."""

RANKS = "lora.r=int(interval(4,64))"


@pytest.fixture
def plan(here: Stage, monkeypatch) -> Callable[..., PlannedSweep]:
    """A dry run's plan on a machine without a GPU, with as much memory as is said."""

    def counted(task: _Counting):
        config = dataclasses.replace(schema.Config(), model=task.model, lora=task.lora)
        found = [sized_at(dataclasses.replace(config, train=train)) for train in task.trains]
        return {key: sizes for each in found for key, sizes in each.items()}

    monkeypatch.setattr(_Counting, "__call__", counted)

    def plan(*overrides: str, memory: str = "100GB", **given) -> PlannedSweep:
        machine = f"hydra.sweeper.plan_for={{gpus:0,memory:{memory},tflops:1}}"
        here.sweep(*overrides, machine, "hydra.sweeper.dry_run=true", seen=SIZED, **given)
        assert here.results is not None
        assert here.results.planned is not None
        return here.results.planned

    return plan


class TestPlan:
    @pytest.mark.slow
    def test_each_point_has_its_parameters_memory_and_time(self, plan, capsys):
        found = plan("lora.r=4,8", "seed=0,1", "verify=none", slots=3)
        assert [point.trainable for point in found.points] == [4_000_000, 8_000_000]
        assert all(point.fits and point.memory_bytes > 1e9 and point.seconds > 1 for point in found.points)
        assert found.points[0].memory_bytes < found.points[1].memory_bytes
        assert found.memory.point == {"lora.r": "8"}
        assert sum(found.memory.parts.values()) <= found.memory.predicted
        assert found.time.seconds == pytest.approx(2 * found.points[1].seconds, rel=0.1)  # four runs on three slots
        assert found.time.idle == pytest.approx(1 / 3, abs=0.01)
        assert found.disk_bytes > 0
        printed = capsys.readouterr().out
        for name in ("memory", "time", "slots", "disk"):
            assert f"\n{name}  " in printed

    def test_programs_have_all_of_it(self, plan, here):
        found = plan("lora.r=4,8")
        document = plain(TrainedSweep.of(here.results))
        assert document["plan"]["points"][1]["trainable"] == found.points[1].trainable
        assert document["plan"]["time"]["ends"].count(":") >= 2
        assert document["is_dry_run"]

    def test_of_a_space_the_corners_and_the_middle_are_shown(self, plan):
        found = plan(RANKS, RATE, n_trials=6)
        assert [(point.at, point.point["lora.r"]) for point in found.points] == [
            ("corner", "4"),
            ("corner", "64"),
            ("middle", "34"),
        ]
        assert {point.point["train.learning_rate"] for point in found.points} == {"tag(log,interval(1e-05,0.1))"}
        assert found.time.seconds == pytest.approx(6 * found.points[2].seconds)

    @pytest.mark.slow
    def test_a_later_stage_takes_at_most_as_much_as_its_largest_point(self, plan, capsys):
        stages = "hydra.sweeper.stages=[{name:a,params:{lora.r:'4,8'}},{name:b,params:{lora.r:'16,32'}}]"
        found = plan(stages, "verify=none")
        (later,) = found.later
        assert found.time.at_most
        assert found.memory.point == {"lora.r": "32"}
        assert later.seconds == pytest.approx(2 * found.points[1].seconds, rel=0.5)
        assert "of runs" in capsys.readouterr().out

    @pytest.mark.slow
    def test_each_remedy_does_what_it_says(self, plan, capsys):
        asked = ("lora.r=4,8", "train.batch_size=64", "verify=none")
        found = plan(*asked, memory="15GB")
        assert [point.fits for point in found.points] == [False, False]
        assert found.memory.remedies
        assert "does not fit" in capsys.readouterr().out
        for remedy in found.memory.remedies:
            again = plan(*asked, *remedy.settings, memory="15GB")
            assert all(point.fits for point in again.points)
            assert again.memory.predicted == pytest.approx(remedy.memory_bytes, rel=0.02)
        assert not Path("multirun").exists() or not list(Path("multirun").glob("*/preflight"))

    @pytest.mark.slow
    def test_a_point_that_breaks_a_constraint_takes_nothing(self, plan, capsys):
        limited = 'hydra.sweeper.constraints={params/trainable:"<=5e6"}'
        found, alone = plan("lora.r=4,8", "verify=none", limited), plan("lora.r=4", "verify=none")
        assert [point.left_out for point in found.points] == [
            None,
            "params/trainable is 8,000,000, and must be <= 5e+06",
        ]
        assert found.points[1].seconds_left == 0
        assert found.memory.point == {"lora.r": "4"}
        assert (found.time.seconds, found.disk_bytes) == pytest.approx((alone.time.seconds, alone.disk_bytes))
        assert "left out (params/trainable is 8,000,000" in capsys.readouterr().out

    def test_a_drawn_trial_that_breaks_one_is_replaced(self, plan):
        found = plan(RANKS, 'hydra.sweeper.constraints={params/trainable:"<=5e6"}', n_trials=6)
        assert [point.left_out is None for point in found.points] == [True, False, False]
        assert found.time.seconds == pytest.approx(6 * found.points[0].seconds)

    @pytest.mark.slow
    def test_what_does_not_fit_starts_with_smaller_batches_and_remedies_stay(self, plan, capsys):
        found = plan("train.batch_size=64,2", "verify=none", memory="15GB")
        assert [point.halvings > 0 for point in found.points] == [True, False]
        assert found.points[0].memory_bytes < 15e9 < found.memory.predicted
        assert found.memory.remedies
        assert "half the batch\n" in capsys.readouterr().out

    def test_what_refuses_the_sweep_is_said_after_what_would_fit(self, plan, capsys):
        found = plan("train.batch_size=64,2", "verify=none", "hydra.sweeper.on_oom=fail", memory="8GB")
        assert "every run must fit" in found.refused
        assert [point.left_out is None for point in found.points] == [False, True]
        assert found.points[0].left_out.startswith("it needs")
        printed = capsys.readouterr().out
        assert 0 < printed.index("the largest run fits with") < printed.index("this sweep is refused: ")

    @pytest.mark.slow
    def test_runs_that_a_budget_has_no_room_for_do_not_start(self, plan):
        each = plan("lora.r=4", "verify=none").time.seconds / 3600
        few = f"hydra.sweeper.budget={{cpu_hours:{each * 2.5},cost_per_hour:2}}"
        found = plan("lora.r=4", "seed=0,1,2", "verify=none", "train.weight_decay=0,0.1", few)
        assert found.budget.runs == 6
        assert found.budget.starts == 0  # all seeds of a point start, or none
        found = plan("lora.r=4", "verify=none", "train.weight_decay=0,0.1,0.2", few)
        assert (found.budget.starts, found.budget.spent) == (2, 0)
        assert found.budget.needed == pytest.approx(3 * each)
        assert found.time.seconds == pytest.approx(2 * each * 3600)
        assert found.refused is None

    def test_a_sweep_of_another_machine_is_a_plan_alone(self, here):
        with pytest.raises(UsageError, match=r"Add hydra\.sweeper\.dry_run=true") as raised:
            here.sweep("lora.r=4", "hydra.sweeper.plan_for={memory:80XB}")
        assert any("80XB" in problem for problem in raised.value.problems)
        assert here.ran == []
