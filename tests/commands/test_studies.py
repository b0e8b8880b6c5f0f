"""`lowrung studies` on studies as sweeps leave them, and on what is left of such."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lowrung.__main__ import main
from lowrung.search.space import Space
from lowrung.search.study import Study
from lowrung.store import atomic, layout
from lowrung.store.layout import ROOT, StudyFolder
from lowrung.store.outcome import Outcome, Status
from tests.terminal import PATIENCE

LOSSES = {0: 3.5, 1: 2.5, 2: 1.5}
"""By trial; the last one breaks a constraint."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study's database: three complete trials, one that failed, and one that is under way."""
    file = tmp_path_factory.mktemp("made") / "study.db"
    study = Study(
        "mine",
        storage=f"sqlite:///{file}",
        space=Space(()),
        objectives={"eval/loss": "minimize"},
        constraints={"params/trainable": "<= 10"},
        purpose={"objectives": {"eval/loss": "minimize"}},
        seed=0,
    )
    for number, loss in LOSSES.items():
        study.tell(
            study.ask({}),
            Outcome(Status.COMPLETE, {"eval/loss": loss, "params/trainable": 20.0 if number == 2 else 5.0}),
        )
    study.tell(study.ask({}), Outcome(Status.OOM, cause="too large"))
    study.ask({})
    study.close()
    return file


@pytest.fixture
def multirun(made, monkeypatch, tmp_path):
    """``multirun/mine``, in a folder with a space in its name: interrupted."""
    folder = tmp_path / "a folder" / "multirun"
    study = StudyFolder(folder / "mine")
    study.path.mkdir(parents=True)
    shutil.copy(made, study.database)
    atomic.write_text(study.path / "multirun.yaml", "study: mine\n")
    monkeypatch.chdir(folder.parent)
    return folder


def end(study: StudyFolder) -> None:
    """Leaves what a sweep leaves at its end; the trial that was under way is told nowhere."""
    with sqlite3.connect(study.database) as connection:
        connection.execute("DELETE FROM trials WHERE state = 'RUNNING'")
    rows = [{"trial": 1, "status": "complete", "broken": [], "metrics": {"eval/loss": 2.5}}]
    rows += [{"trial": 0, "status": "complete", "broken": [], "metrics": {"eval/loss": 3.5}}]
    atomic.write_json(study.leaderboard, rows)
    atomic.write_json(study.verdict, {"verdict": "trial 1 is better", "metric": "eval/loss"})


@pytest.fixture
def listed(capsys):
    """What the command lists, by name, in order."""

    def run(*arguments):
        main(["studies", *arguments, "--json"])
        return {study["name"]: study for study in json.loads(capsys.readouterr().out)["studies"]}

    return run


def test_one_that_was_interrupted_has_the_best_trial_that_keeps_to_the_constraints(multirun, listed):
    found = listed()["mine"]
    assert found["state"] == "interrupted"
    assert found["trials"] == {"complete": 3, "oom": 1, "running": 1}
    assert (found["metric"], found["best"], found["value"]) == ("eval/loss", 1, 2.5)
    assert (found["verdict"], found["problem"]) == (None, None)
    assert found["folder"] == str(multirun / "mine")


def test_trials_that_were_asked_for_and_have_not_begun_are_counted(multirun, capsys):
    file = multirun / "mine" / "study.db"
    for asked, said in ((9, "1 running, 4 not begun"), (5, "1 running")):
        with sqlite3.connect(file) as connection:
            connection.execute("DELETE FROM study_user_attributes WHERE key = 'planned'")
            note = json.dumps({"trials": asked, "seeds": 1})
            connection.execute(
                "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, 'planned', ?)", (note,)
            )
        main(["studies"])
        assert f"3 complete, 1 oom, {said}  " in capsys.readouterr().out
    main(["studies", "--json"])
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    assert (study["asked"], sum(study["trials"].values())) == (5, 5)


def test_one_that_has_ended_has_its_leaderboard_and_what_it_says(multirun, listed, capsys):
    study = StudyFolder(multirun / "mine")
    end(study)
    found = listed()["mine"]
    assert (found["state"], found["trials"]) == ("complete", {"complete": 2})
    assert (found["best"], found["value"], found["verdict"]) == (1, 2.5, "trial 1 is better")
    main(["studies"])
    row = capsys.readouterr().out.splitlines()[1]
    assert row.startswith("mine   complete  2 complete  ")
    assert "eval/loss 2.5 (trial 1)" in row
    rows = json.loads(study.leaderboard.read_text())
    del rows[0]["metrics"]["eval/loss"]  # as where it was not finite
    for kept, best in ((rows, (0, 3.5)), (rows[:1], (None, None))):
        atomic.write_json(study.leaderboard, kept)
        found = listed()["mine"]
        assert (found["best"], found["value"]) == best
    os.utime(study.leaderboard, (1e9, 1e9))  # trials have ended since
    assert listed()["mine"]["state"] == "interrupted"


def test_one_that_runs_has_a_process_that_holds_it(multirun, listed):
    study = StudyFolder(multirun / "mine")
    with atomic.lock(study.lock):
        assert listed()["mine"]["state"] == "interrupted"  # its record says that nobody has it: no lock is touched
        with sqlite3.connect(study.database) as connection:
            insert = (
                "INSERT INTO study_system_attributes (study_id, key, value_json) VALUES (1, 'lowrung:coordinator', ?)"
            )
            connection.execute(insert, ('{"id": "x"}',))
        assert listed()["mine"]["state"] == "running"
    assert listed()["mine"]["state"] == "interrupted"


def test_the_latest_comes_first_and_other_folders_are_none(multirun, listed):
    for name, time in (("old", 1e9), ("older", 9e8)):
        shutil.copytree(multirun / "mine", multirun / name)
        for file in (multirun / name, *(multirun / name).iterdir()):
            os.utime(file, (time, time))
    (multirun / "notes").mkdir()
    (multirun / "file").write_text("")
    found = listed()
    assert list(found) == ["mine", "old", "older"]
    assert found["old"]["touched"] == "2001-09-09T01:46:40+00:00"
    assert listed(str(multirun)) == found


@pytest.mark.parametrize(
    ("spoil", "state", "problem"),
    [
        (
            lambda study: study.database.write_bytes(b"SQLite format 3\0 no more"),
            "unreadable",
            "study.db cannot be read",
        ),
        (lambda study: study.database.write_bytes(b""), "unreadable", "study.db cannot be read"),
        (lambda study: study.leaderboard.write_text("[{"), "interrupted", "leaderboard.json must be JSON"),
        (lambda study: study.leaderboard.write_text('[{"n": 1}]'), "interrupted", "leaderboard.json is none of this"),
        (lambda study: study.verdict.unlink(), "complete", "verdict.json is missing"),
        (lambda study: study.verdict.write_text("[]"), "complete", "verdict.json holds something else"),
    ],
)
def test_what_cannot_be_read_is_a_row_with_the_reason(multirun, listed, spoil, state, problem):
    study = StudyFolder(multirun / "mine")
    end(study)
    if state == "unreadable":
        study.leaderboard.unlink()
    spoil(study)
    found = listed()["mine"]
    assert found["state"] == state
    assert problem in found["problem"]


def test_without_a_database_the_runs_are_counted(multirun, listed):
    study = StudyFolder(multirun / "mine")
    study.database.unlink()
    assert listed()["mine"]["state"] == "empty"
    for number, status in enumerate((Status.COMPLETE, Status.PRUNED, None)):
        run = layout.run_folder(multirun.parent / "runs", f"run{number}")
        run.path.mkdir(parents=True)
        layout.point_to(study.job(number).run, run.path)
        if status:
            Outcome(status, cause="c").write(run.outcome)
    assert listed()["mine"]["trials"] == {"complete": 1, "pruned": 1, "running": 1}


def test_no_study_at_all_is_said(tmp_path, monkeypatch, capsys, refused):
    monkeypatch.chdir(tmp_path)
    main(["studies"])
    assert f"There is no study in {tmp_path / 'multirun'}." in capsys.readouterr().out
    (tmp_path / "sweeps").mkdir()
    assert "Did you mean sweeps?" in refused("studies", tmp_path / "sweep")


IMPORTS = "import sys; from lowrung.__main__ import main; main(['studies']); print(*sys.modules, file=sys.stderr)"


@pytest.mark.slow
def test_nothing_heavy_is_imported(multirun):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "mine" in done.stdout
    heavy = {"torch", "transformers", "optuna", "mlflow", "sqlalchemy", "pandas", "scipy", "omegaconf"}
    assert heavy.isdisjoint(done.stderr.split())
    assert Path(multirun / "mine" / "study.db-wal").exists() is False


@pytest.mark.parametrize(
    ("taken", "best", "complete"),
    [
        ({"shared": [], "left_out": []}, "trial 0", 3),
        ({"shared": [1], "left_out": []}, "trial 1", 3),
        ({"shared": [], "left_out": [0]}, "trial 1", 2),
        ({"shared": [], "left_out": [0, 1]}, "", 1),
    ],
    ids=["the last stage", "a trial of two stages", "a trial that is left out", "none"],
)
def test_a_study_of_stages_has_the_best_of_the_last_one(multirun, capsys, taken, best, complete):
    purpose = {"objectives": {"eval/loss": "minimize"}, "stages": {"stage rate": "", "stage rank": "best of rate"}}
    with sqlite3.connect(StudyFolder(multirun / "mine").database) as connection:
        connection.execute(
            "UPDATE study_user_attributes SET value_json = ? WHERE key = 'purpose'", [json.dumps(purpose)]
        )
        add = "INSERT INTO {} ({}, key, value_json) VALUES (?, ?, ?)"
        facts = add.format("study_user_attributes", "study_id")
        connection.execute(facts, [1, "taken_over", json.dumps({"rank": taken})])
        for number, stage in enumerate(("rank", "rate", "rank")):
            facts = add.format("trial_user_attributes", "trial_id")
            connection.execute(facts, [number + 1, "stage", json.dumps(stage)])
    main(["studies"])
    printed = capsys.readouterr().out
    assert f"{complete} complete" in printed
    assert (f"({best})" in printed) == bool(best)
