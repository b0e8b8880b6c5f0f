"""What every tracker that keeps records must do; a subclass says how to make one and how to read it."""

import math
from collections.abc import Callable

import pytest

from lowrung.finetune.data.split import Split
from lowrung.store.outcome import Status
from lowrung.track.base import Child, Point, Tracker, TrackError
from lowrung.track.pages import View
from tests.track.memory import RecordedRun


class TrackerContract:
    def read(self, tracker: Tracker, run: str) -> RecordedRun:
        """All that ``tracker`` has recorded of ``run``."""
        raise NotImplementedError

    def reopened(self, tracker: Tracker) -> Tracker:
        """A tracker on the same store, as another process opens it."""
        raise NotImplementedError

    def test_a_run_starts_with_what_it_was_given(self, tracker):
        run = tracker.start_run("r=8", params={"lora.r": "8"}, tags={"lowrung.kind": "trial"})
        record = self.read(tracker, run)
        assert (record.name, record.parent, record.status) == ("r=8", None, None)
        assert record.params == {"lora.r": "8"}
        assert record.tags["lowrung.kind"] == "trial"

    def test_trials_know_their_sweep(self, tracker):
        sweep = tracker.start_run("sweep")
        trials = [tracker.start_run("same name", parent=sweep) for _ in range(2)]
        assert len({sweep, *trials}) == 3
        assert [self.read(tracker, trial).parent for trial in trials] == [sweep, sweep]

    def test_a_key_opens_one_run(self, tracker):
        """A coordinator that was killed before it wrote the id down asks again; missing parameters are added."""
        sweep = tracker.start_run("sweep", key="sweep")
        run = tracker.start_run("r=8", parent=sweep, key=f"{sweep}/0")
        again = self.reopened(tracker).start_run("r=8", parent=sweep, params={"lora.r": "8"}, key=f"{sweep}/0")
        assert again == run
        assert self.read(tracker, run).params == {"lora.r": "8"}
        assert tracker.start_run("r=8", parent=sweep, key=f"{sweep}/1") != run

    def test_history_keeps_every_step(self, tracker):
        run = tracker.start_run("run")
        tracker.log(run, [Point(0, 1.0, {"eval/loss": 3.5}), Point(5, 2.0, {"train/loss": 3.0})])
        tracker.log(run, [Point(10, 3.0, {"eval/loss": 2.5, "eval/token_accuracy": 0.5})])
        record = self.read(tracker, run)
        assert record.history == {
            "eval/loss": {0: 3.5, 10: 2.5},
            "train/loss": {5: 3.0},
            "eval/token_accuracy": {10: 0.5},
        }
        assert record.metrics == {"eval/loss": 2.5, "train/loss": 3.0, "eval/token_accuracy": 0.5}

    def test_a_step_logged_again_keeps_its_first_value(self, tracker):
        run = tracker.start_run("run")
        tracker.log(run, [Point(1, 1.0, {"train/loss": 3.0}), Point(1, 1.5, {"train/loss": 9.0})])
        tracker.log(run, [Point(1, 2.0, {"train/loss": 9.0}), Point(2, 2.0, {"train/loss": 2.0})])
        assert self.read(tracker, run).history == {"train/loss": {1: 3.0, 2: 2.0}}

    def test_a_resumed_run_may_log_its_steps_again(self, tracker):
        run = tracker.start_run("run")
        tracker.log(run, [Point(step, 1.0, {"train/loss": float(step)}) for step in (1, 2, 3)])
        tracker.end_run(run, Status.CANCELLED)
        tracker = self.reopened(tracker)
        tracker.log(run, [Point(step, 9.0, {"train/loss": float(step)}) for step in (3, 4)])
        assert self.read(tracker, run).history == {"train/loss": {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}}

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_nan(self, tracker, value):
        run = tracker.start_run("run")
        tracker.log(run, [Point(1, 1.0, {"eval/loss": 3.0}), Point(2, 2.0, {"eval/loss": value})])
        history = self.read(tracker, run).history["eval/loss"]
        assert history[1] == 3.0
        assert math.isnan(history[2])

    def test_long_lists_are_kept_whole(self, tracker):
        params = {f"p{number}": str(number) for number in range(250)}
        run = tracker.start_run("run", params=params, tags={f"t{number}": "1" for number in range(150)})
        tracker.set_tags(run, {f"u{number}": "2" for number in range(150)})
        tracker.log(run, [Point(step, 1.0, {"a": 1.0, "b": 2.0}) for step in range(600)])
        record = self.read(tracker, run)
        assert record.params == params
        assert len(record.tags) == 300
        assert (len(record.history["a"]), len(record.history["b"])) == (600, 600)

    def test_a_parameter_keeps_its_value(self, tracker):
        run = tracker.start_run("run", params={"lora.r": "8"})
        tracker.log_params(run, {"lora.r": "8", "lora.alpha": "16"})
        with pytest.raises(TrackError, match=r"lora\.r"):
            tracker.log_params(run, {"lora.r": "4"})
        assert self.read(tracker, run).params == {"lora.r": "8", "lora.alpha": "16"}

    def test_a_tag_takes_the_last_value(self, tracker):
        run = tracker.start_run("run", tags={"lowrung.best": "1"})
        tracker.set_tags(run, {"lowrung.best": "2"})
        assert self.read(tracker, run).tags == {"lowrung.best": "2"}

    def test_datasets_are_named_once(self, tracker):
        run = tracker.start_run("run")
        datasets = [
            Split("docstrings", "abc", "Python's standard library", "training", 2000),
            Split("docstrings held out", "def", "Python's standard library", "evaluation", 200),
        ]
        tracker.log_datasets(run, datasets)
        tracker.log_datasets(run, datasets)
        assert sorted(self.read(tracker, run).datasets, key=lambda dataset: dataset.rows, reverse=True) == datasets

    def test_files_and_folders_are_copied(self, tracker, tmp_path):
        run = tracker.start_run("run")
        (tmp_path / "config.yaml").write_text("lora: {r: 8}")
        (tmp_path / "adapter" / "deep").mkdir(parents=True)
        (tmp_path / "adapter" / "deep" / "weights").write_bytes(b"\0\1")
        tracker.log_artifact(run, tmp_path / "config.yaml")
        tracker.log_artifact(run, tmp_path / "adapter")
        (tmp_path / "config.yaml").write_text("changed")
        assert self.read(tracker, run).artifacts == {"config.yaml": b"lora: {r: 8}", "adapter/deep/weights": b"\0\1"}

    @pytest.mark.parametrize("status", Status)
    def test_the_exact_status_is_kept(self, tracker, status):
        run = tracker.start_run("run")
        tracker.end_run(run, status)
        assert self.read(tracker, run).status is status

    def test_a_closed_run_may_go_on(self, tracker):
        run = tracker.start_run("sweep")
        tracker.end_run(run, Status.CANCELLED)
        tracker.log(run, [Point(1, 1.0, {"eval/loss": 3.0})])
        tracker.end_run(run, Status.COMPLETE)
        record = self.read(tracker, run)
        assert record.status is Status.COMPLETE
        assert record.metrics == {"eval/loss": 3.0}

    def test_an_unknown_run_is_refused(self, tracker, tmp_path):
        unknown = "0" * 32
        (tmp_path / "file").touch()
        calls: list[Callable[[], None]] = [
            lambda: tracker.log(unknown, [Point(1, 1.0, {"a": 1.0})]),
            lambda: tracker.log_params(unknown, {"a": "1"}),
            lambda: tracker.set_tags(unknown, {"a": "1"}),
            lambda: tracker.log_datasets(unknown, [Split("a", "b", "c", "training", 1)]),
            lambda: tracker.log_artifact(unknown, tmp_path / "file"),
            lambda: tracker.end_run(unknown, Status.COMPLETE),
        ]
        for call in calls:
            with pytest.raises(TrackError):
                call()

    def test_a_sweep_knows_its_children_by_their_keys(self, tracker):
        sweep, other = (tracker.start_run(name, key=name) for name in ("children", "other"))
        done, going = (tracker.start_run(key, parent=sweep, key=f"{sweep}/{key}") for key in ("0", "1"))
        tracker.start_run("0", parent=other, key=f"{other}/0")
        tracker.set_tags(done, {"lowrung.signature": "ab12"})
        tracker.end_run(done, Status.PRUNED)
        children = self.reopened(tracker).children(sweep)
        assert children == {
            f"{sweep}/0": Child(done, Status.PRUNED, "ab12"),
            f"{sweep}/1": Child(going, None, None),
        }
        assert children[f"{sweep}/0"].holds(Status.PRUNED, "ab12")
        assert not children[f"{sweep}/1"].holds(Status.PRUNED, "ab12")
        assert tracker.find(f"{sweep}/1") == going
        assert tracker.find(f"{sweep}/2") is None

    def test_a_sweep_has_a_page(self, tracker):
        sweep = tracker.start_run("sweep")
        assert tracker.present(sweep, View(["lora.r"], {"eval/loss": "minimize"})).startswith("#/")
