"""Studies that ended, run, broke off or lost their files: all of it is read, and what is missing is said."""

import dataclasses
import json
import math
import os
import shutil
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowrung.commands import candidates, studies
from lowrung.errors import UsageError
from lowrung.report import rows
from lowrung.report.record import Stretch, StudyRecord
from lowrung.search import recorded
from lowrung.store.layout import StudyFolder
from lowrung.store.outcome import Status
from lowrung.studies import reading
from tests.studies.written import BEGIN, LOSS, SECONDS, Written


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A study that has ended; tests change copies of it."""
    made = Written(tmp_path_factory.mktemp("ended"), losses={0: 3.0, 1: 2.5})
    made.write()
    return made


@pytest.fixture
def moved(ended: Written, tmp_path: Path) -> Written:
    """A copy, with its files' times; its leaderboard names the old folders."""
    shutil.copytree(ended.root, tmp_path / "moved", symlinks=True)
    return Written(tmp_path / "moved", losses=ended.losses)


@pytest.fixture
def copied(ended: Written, moved: Written) -> Written:
    """A study like it, elsewhere."""
    board = moved.folder.leaderboard
    time = board.stat().st_mtime
    board.write_text(board.read_text().replace(str(ended.root), str(moved.root)))
    os.utime(board, (time, time))
    return moved


class TestAnEndedStudy:
    def test_is_as_its_leaderboard_has_it(self, ended):
        study = reading.read(ended.folder)
        listed = json.loads(ended.folder.leaderboard.read_text())
        assert [trial.number for trial in study.trials] == [row["trial"] for row in listed] == [1, 0, 2, 3]
        assert [trial.metrics for trial in study.trials] == [row["metrics"] for row in listed]
        assert study.verdict == json.loads(ended.folder.verdict.read_text())["sentences"]
        assert (study.state, study.total, study.objectives, study.doubts) == ("complete", 4, LOSS, [])

    def test_has_where_each_trial_stands_in_words_and_numbers(self, ended):
        best, worse, *others = reading.read(ended.folder).trials
        assert best.difference
        assert worse.difference
        assert (best.against, best.difference.mean, best.difference.verdict) == ("best", 0.0, "best")
        assert worse.difference.low < worse.difference.mean < worse.difference.high
        assert worse.against.startswith("+0.")
        assert [trial.difference for trial in others] == [None, None]

    def test_has_its_axes_with_their_scales(self, ended):
        rank, rate = reading.read(ended.folder).axes
        assert (rank.key, rank.values, rank.is_log) == ("lora.r", ["4", "8", "16", "64"], True)
        assert (rate.key, rate.low, rate.high, rate.is_log) == ("train.learning_rate", 1e-5, 1e-3, True)

    def test_has_what_each_run_reported_and_when_it_ran(self, ended):
        study = reading.read(ended.folder)
        run = next(trial for trial in study.trials if trial.number == 0).runs[0]
        assert [point.step for point in run.history] == list(range(21))
        assert (run.history[10].tokens, run.history[10].metrics["train/tokens"]) == (5000, 5000)
        assert run.history[0].seconds == pytest.approx(4)
        assert (run.started, run.ended, run.slot) == (BEGIN + 1, BEGIN + SECONDS, 0)
        assert {one.slot for trial in study.trials for one in trial.runs} == {0}

    def test_has_all_parts_of_a_run_that_was_interrupted(self, copied):
        folder = copied.run(0)
        record = json.loads(folder.outcome.read_text())
        record["facts"]["parts"] = [[BEGIN, 20.0], [BEGIN + 30, 25.0]]
        folder.outcome.write_text(json.dumps(record))
        reports = [json.loads(line) for line in folder.reports.read_text().splitlines()]
        lines = [json.dumps({**report, "seconds": 2.0 * report["step"]}) + "\n" for report in reports]
        folder.reports.write_text("".join(lines))
        study = reading.read(copied.folder)
        run = next(trial for trial in study.trials if trial.number == 0).runs[0]
        assert (run.started, run.ended, run.slot) == (BEGIN + 30, BEGIN + 55, 0)
        assert run.earlier == [Stretch(BEGIN, BEGIN + 20, 0)]
        assert run.begun == BEGIN
        assert [point.seconds for point in run.history] == [2.0 * step for step in range(21)]
        assert {one.slot for trial in study.trials for one in trial.runs} == {0}

    def test_leaves_out_the_ranks_by_layer(self, ended):
        assert reading.read(ended.folder).trials[0].runs[0].facts == {"gate_failures": []}

    def test_prints_the_table_of_its_sweep(self, ended):
        lines = rows.table(reading.read(ended.folder)).splitlines()
        assert "against the best" in lines[0]
        assert [line.split()[:2] for line in lines[1:]] == [["1", "1"], ["2", "0"], ["-", "2"], ["-", "3"]]

    def test_reads_alike_where_it_was_moved_to(self, moved, ended):
        study, before = reading.read(moved.folder), reading.read(ended.folder)
        assert study.trials[0].runs[0].folder == moved.run(1).path
        assert [trial.metrics for trial in study.trials] == [trial.metrics for trial in before.trials]

    def test_nothing_is_changed_where_it_lies(self, copied):
        before = {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")}
        reading.read(copied.folder)
        assert {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")} == before


class TestAStudyThatHasNotEnded:
    @pytest.mark.parametrize(
        "text",
        [
            *("", "{}", "[]", '{"ended": [[1]], "began": null}', '{"ended": 1, "began": 2}'),
            *('{"ended": [["a", 1]], "began": null}', '{"ended": [], "began": "b"}'),
        ],
    )
    def test_a_run_that_goes_on_began_with_its_last_part_unless_what_is_noted_of_it_is_damaged(self, tmp_path, text):
        made = Written(tmp_path, (Status.COMPLETE, None), has_ended=False)
        made.write()
        began = BEGIN + 200
        noted = {"ended": [[BEGIN + 60, 20.0]], "began": began}
        made.run(1).parts.write_text(json.dumps(noted))
        run = reading.read(made.folder).trials[1].runs[0]
        assert (run.started, run.ended) == (began, None)
        assert [(each.started, each.ended) for each in run.earlier] == [(BEGIN + 60, BEGIN + 80)]
        made.run(1).parts.write_text(text)
        run = reading.read(made.folder).trials[1].runs[0]
        assert (run.started, run.earlier) == (BEGIN + SECONDS + 5, [])

    def test_has_the_trials_of_its_database_and_a_verdict_so_far(self, tmp_path):
        made = Written(tmp_path, [Status.COMPLETE, None, Status.COMPLETE], has_ended=False, losses={0: 3.0, 2: 2.5})
        study = reading.read(made.write())
        assert study.state == "interrupted"
        assert [(trial.number, trial.status) for trial in study.trials] == [(2, "complete"), (0, "complete"), (1, None)]
        assert (study.preferred, study.trials[0].against) == (2, "best")
        assert len(study.trials[-1].runs[0].history) == 11
        assert "(trial 2) is better than" in study.verdict[0]

    def test_has_an_older_leaderboard_that_does_not_count(self, copied):
        made = Written(copied.root / "on", [Status.COMPLETE, Status.COMPLETE, None], losses={0: 2.0, 1: 3.0})
        folder = made.write()
        shutil.copy(copied.folder.leaderboard, folder.leaderboard)
        study = reading.read(folder)
        assert (study.state, study.trials[0].number) == ("interrupted", 0)

    def test_that_has_ended_again_under_an_older_leaderboard_is_read_anew(self, copied):
        os.utime(copied.folder.leaderboard, (BEGIN, BEGIN))
        listed = json.loads(copied.folder.leaderboard.read_text())
        copied.folder.leaderboard.write_text(json.dumps(listed[1:]))
        os.utime(copied.folder.leaderboard, (BEGIN, BEGIN))
        study = reading.read(copied.folder)
        assert (study.state, len(study.trials)) == ("interrupted", 4)

    def test_that_was_started_over_under_the_same_numbers_is_read_anew(self, copied):
        os.utime(copied.folder.leaderboard, (BEGIN, BEGIN))
        study = reading.read(copied.folder)
        assert (study.state, len(study.trials)) == ("interrupted", 4)

    def test_of_a_machine_that_is_gone_is_interrupted_and_its_last_sign_of_life_is_said(self, tmp_path, monkeypatch):
        """A study in PostgreSQL: no file's time tells whether its coordinator lives."""
        folder = Written(tmp_path, [Status.COMPLETE, None], has_ended=False).write()
        beats = iter([1, 2, 2, 2, 2])

        def record(*_):
            fields = {"id": "a", "beat": next(beats), "host": "node7", "pid": 42, "machine": "it", "lock": "l"}
            return json.dumps({**fields, "lock_id": [1, 2], "time": BEGIN})

        monkeypatch.setattr(reading, "WAIT_SECONDS", 0.0)
        monkeypatch.setattr(reading, "addresses", SimpleNamespace(sqlite_path=lambda _: None))
        monkeypatch.setattr(recorded, "_coordinator", record)
        assert reading.read(folder).state == "running"  # its count went from 1 to 2
        study = reading.read(folder)
        assert study.state == "interrupted"
        assert "process 42 on node7 had the study. Its last sign of life was on 2026-09-21 at" in study.doubts[0]

    def test_without_any_trial_is_empty(self, tmp_path):
        study = reading.read(Written(tmp_path, [], has_ended=False).write())
        assert (study.state, study.trials, study.verdict) == ("empty", [], ["no trial has ended"])

    def test_over_several_seeds_has_the_means(self, tmp_path):
        made = Written(tmp_path, [Status.COMPLETE], seeds=(0, 1, 2), has_ended=False)
        (trial,) = reading.read(made.write()).trials
        assert [run.seed for run in trial.runs] == [0, 1, 2]
        each = [run.metrics["eval/loss"] for run in trial.runs]
        assert trial.metrics["eval/loss"] == pytest.approx(sum(each) / 3)


class TestInAnotherTimeZone:
    """Optuna writes local times without their zone, and the study notes where the clock stood."""

    @pytest.fixture
    def clock(self, monkeypatch):
        def move(zone):
            monkeypatch.setenv("TZ", zone)
            time.tzset()

        yield move
        monkeypatch.undo()
        time.tzset()

    @pytest.mark.parametrize("has_ended", [True, False])
    def test_it_reads_alike(self, tmp_path, clock, has_ended):
        made = Written(tmp_path, [Status.COMPLETE] * 2, has_ended=has_ended)
        clock("Asia/Tokyo")
        folder = made.write()
        there = reading.read(folder)
        for zone in ("America/Los_Angeles", "Pacific/Kiritimati"):
            clock(zone)
            assert dataclasses.replace(reading.read(folder), provenance=there.provenance) == there
            assert [study.state for study in studies.studies(folder.path.parent).studies] == [there.state]
        assert {run.slot for trial in there.trials for run in trial.runs} == {0}


def test_the_sampler_is_said_where_anything_is_drawn(tmp_path):
    grid = Written(tmp_path, [Status.COMPLETE] * 2, points=[{"lora.r": 4}, {"lora.r": 8}], name="grid").write()
    drawn = Written(tmp_path, [Status.COMPLETE] * 2, name="drawn").write()
    found = [reading.read(folder).provenance["sampler"] for folder in (grid, drawn)]
    assert found == ["none: a grid", "tpe"]


class TestWhatIsBroken:
    """Each case breaks a part of a study: a sentence says so, and the rest is shown."""

    def check(self, folder: StudyFolder, *said: str) -> StudyRecord:
        study = reading.read(folder)
        assert [sentence for sentence in said if not any(sentence in doubt for doubt in study.doubts)] == []
        assert len(study.doubts) == len(said), study.doubts
        return study

    def test_a_runs_folder_is_gone(self, copied):
        for number in (1, 2):
            shutil.rmtree(copied.run(number).path)
        study = self.check(copied.folder, "a run's folder is gone")
        assert study.doubts[0].endswith("(trials 1 and 2).")
        assert (study.trials[0].number, study.trials[0].runs[0].folder, study.trials[0].runs[0].history) == (
            1,
            None,
            (),
        )
        assert study.trials[0].runs[0].metrics["eval/loss"] == study.trials[0].metrics["eval/loss"]

    def test_an_outcome_is_gone(self, copied):
        copied.run(1).outcome.unlink()
        study = self.check(copied.folder, "a run's outcome.json is gone: what it measured by itself is not shown")
        assert study.trials[0].runs[0].metrics["eval/loss"] == study.trials[0].metrics["eval/loss"]

    def test_the_database_is_gone(self, copied):
        copied.folder.database.unlink()
        study = self.check(copied.folder, "there is no database of the study: what was searched is what")
        assert (study.state, study.provenance["sampler"]) == ("complete", "tpe")

    def test_a_value_that_is_not_a_number(self, copied):
        """SQLite keeps it as NULL."""
        copied.folder.leaderboard.unlink()
        with sqlite3.connect(copied.folder.database) as connection:
            connection.execute("UPDATE trial_values SET value = NULL")
        study = self.check(copied.folder)
        assert all(math.isnan(trial.metrics["eval/loss"]) for trial in study.trials if trial.status is Status.COMPLETE)
        assert study.preferred is None

    def test_the_whole_store_is_gone_and_there_is_no_leaderboard(self, copied):
        shutil.rmtree(copied.root / "runs")
        copied.folder.leaderboard.unlink()
        study = self.check(copied.folder, "a run's folder is gone")
        assert study.trials[0].metrics.keys() == {"eval/loss"}  # what the database has

    @pytest.mark.parametrize("content", ["{", "[]", '{"status": "finished"}', '{"metrics": {}}', "null"])
    def test_an_outcome_that_is_none(self, copied, content):
        copied.run(1).outcome.write_text(content)
        study = self.check(copied.folder, "outcome.json of a run is none that lowrung")
        assert study.trials[0].runs[0].status is Status.COMPLETE  # as the leaderboard has it
        assert len(study.trials[0].runs[0].history) == 21

    def test_an_outcome_with_fields_of_another_version(self, copied):
        fields = json.loads(copied.run(1).outcome.read_text())
        fields |= {"kind": "lora", "facts": {**fields["facts"], "more": [1]}, "cause": 3}
        copied.run(1).outcome.write_text(json.dumps(fields))
        assert self.check(copied.folder).trials[0].runs[0].facts["more"] == [1]

    def test_an_outcome_that_was_made_anew_since(self, copied):
        fields = json.loads(copied.run(1).outcome.read_text())
        fields["metrics"]["eval/loss"] = 0.1
        copied.run(1).outcome.write_text(json.dumps(fields))
        study = self.check(copied.folder, "has other metrics now than when the study ended")
        assert study.trials[0].runs[0].metrics["eval/loss"] > 2

    def test_runs_of_another_version(self, copied):
        copied.run(3).environment.write_text('{"lowrung": "0.1.0"}')
        study = self.check(copied.folder, "lowrung 0.1.0 made results that lowrung")
        assert study.provenance["lowrung"].endswith("0.1.0")

    def test_a_database_that_is_none(self, copied):
        copied.folder.database.write_bytes(b"no database at all, but long enough to be read as one" * 40)
        study = self.check(copied.folder, "study.db must be a database of Optuna's that can be read")
        assert (study.state, len(study.trials)) == ("complete", 4)
        assert [axis.key for axis in study.axes] == ["lora.r", "train.learning_rate"]

    def test_a_leaderboard_that_is_cut_off(self, copied):
        copied.folder.leaderboard.write_text(copied.folder.leaderboard.read_text()[:500])
        study = self.check(copied.folder, "leaderboard.json is none that lowrung")
        assert [trial.number for trial in study.trials] == [1, 0, 2, 3]

    def test_a_leaderboard_of_another_study(self, copied, tmp_path):
        other = Written(tmp_path / "other", [Status.COMPLETE] * 3, name="other").write()
        shutil.copy(other.leaderboard, copied.folder.leaderboard)
        study = self.check(copied.folder, "leaderboard.json names other runs than this study's")
        assert [trial.number for trial in study.trials] == [1, 0, 2, 3]
        (row,) = [one for one in studies.studies(copied.folder.path.parent).studies if one.name == "words"]
        assert "names other runs" in str(row.problem)
        assert dict(row.trials) == {"complete": 2, "pruned": 1, "failed": 1}
        with pytest.raises(UsageError, match="must be of this study"):
            candidates.best(copied.folder)

    def test_a_verdict_that_is_cut_off(self, copied):
        said = json.loads(copied.folder.verdict.read_text())["sentences"]
        copied.folder.verdict.write_text("[")
        assert self.check(copied.folder, "verdict.json cannot be read").verdict == said

    def test_neither_database_nor_leaderboard(self, copied):
        copied.folder.database.unlink()
        copied.folder.leaderboard.unlink()
        study = self.check(copied.folder, "there is no database of the study, and no leaderboard")
        assert study.trials[0].point["lora.r"] == "8"

    def test_neither_of_them_and_several_seeds(self, tmp_path):
        made = Written(tmp_path, [Status.COMPLETE, Status.COMPLETE], seeds=(0, 3))
        folder = made.write()
        before = {trial.number: trial for trial in reading.read(folder).trials}
        folder.database.unlink()
        folder.leaderboard.unlink()
        study = reading.read(folder)
        assert [len(trial.runs) for trial in study.trials] == [2, 2]
        for trial in study.trials:
            assert trial.metrics["eval/loss"] == before[trial.number].metrics["eval/loss"]
            assert [run.seed for run in trial.runs] == [0, 3]

    def test_a_seed_that_cannot_be_read_changes_no_mean(self, tmp_path):
        made = Written(tmp_path, [Status.COMPLETE], seeds=(0, 1, 2), has_ended=False)
        folder = made.write()
        (whole,) = reading.read(folder).trials
        made.run(0, 2).outcome.write_text("[")
        (trial,) = reading.read(folder).trials
        assert trial.metrics["eval/loss"] == pytest.approx(whole.metrics["eval/loss"])

    def test_the_sweeps_config_is_gone_or_damaged(self, copied):
        copied.folder.config.write_text("[")
        self.check(copied.folder, "multirun.yaml cannot be read")
        copied.folder.config.unlink()
        assert self.check(copied.folder, "multirun.yaml is gone").objectives == LOSS

    def test_reports_with_damaged_lines(self, copied):
        with copied.run(1).reports.open("a") as file:
            file.write('{"step": 21}\nnot JSON\n{"step": 22, "time"')  # the last one is still being written
        study = self.check(copied.folder, "lines of a run's reports.jsonl are damaged")
        assert len(study.trials[0].runs[0].history) == 21

    def test_a_metric_that_no_trial_has(self, tmp_path):
        made = Written(tmp_path, [Status.COMPLETE] * 2, objectives={"eval/rouge1": "maximize"})
        study = reading.read(made.write())
        assert study.verdict == ["no trial has measured eval/rouge1: take none"]
        assert [trial.number for trial in study.trials] == [0, 1]
        assert reading.read(made.folder).doubts == []
