"""The jobs of a study whose folders are named by something else than their trials' numbers (``hydra.sweep.subdir``)."""

import json
from pathlib import Path

import pytest

from lowrung.commands import candidates, studies
from lowrung.commands.names import find_runs
from lowrung.errors import UsageError
from lowrung.store.layout import RunFolder, StudyFolder, point_to
from lowrung.store.outcome import Status
from lowrung.studies import finding, reading
from lowrung.studies.folders import Folders, links
from tests.studies.written import Written

JOB = "hydra:\n  job:\n    name: train\n    config:\n      override_dirname:\n        kv_sep: '='\n    num: {}\n"
COMPLETE = (Status.COMPLETE, Status.COMPLETE, Status.COMPLETE)


def named_by(made: Written, name: str) -> Written:
    """A study with ``hydra.sweep.subdir`` set: its jobs' folders are other trials' numbers, or deeper."""
    study, count = made.write(), len(made.statuses)
    sweep = f"hydra:\n  sweep:\n    dir: multirun/words\n    subdir: {json.dumps(name)}\n"
    study.config.write_text(study.config.read_text().replace("hydra:\n", sweep, 1))
    for number in range(count):
        for noted in study.job(number).path.rglob(".hydra"):
            (noted / "hydra.yaml").write_text(JOB.format(number))
        study.job(number).path.rename(study.path / f"aside-{number}")
    for number in range(count):
        target = study.path / name.format(n=number, other=(number + 1) % count)
        target.parent.mkdir(parents=True, exist_ok=True)
        (study.path / f"aside-{number}").rename(target)
        for link in list(links(target)):
            seed = int(link.parent.name.partition("seed_")[2] or 0)
            point_to(link, made.run(number, seed).path)
    return made


@pytest.fixture(params=["{other}", "by/r{n}", "trial {n} = '{other}' ü"])
def made(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return named_by(Written(tmp_path, COMPLETE, losses={0: 3.0, 1: 2.5, 2: 2.8}), request.param)


def test_a_trial_s_run_is_named_by_the_trial_s_number(made):
    for number in range(3):
        assert find_runs([f"words/{number}"], Path.cwd()) == [RunFolder(made.run(number).path.resolve())]
    with pytest.raises(UsageError, match=r"Name one of its trials: words/0, words/1, words/2\."):
        find_runs(["words"], Path.cwd())


def test_a_trial_that_was_left_out_is_named_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board = Written(tmp_path, COMPLETE).write().leaderboard
    rows = json.loads(board.read_text())
    out = {"trial": 3, "status": "skipped", "cause": "by the plan it is too large", "runs": []}
    board.write_text(json.dumps([*rows, out]))
    with pytest.raises(UsageError, match="words/3 must be a trial that was run, but it was skipped: by the plan it is"):
        find_runs(["words/3"], Path.cwd())
    for odd in ("", "[1]", '[{"trial": 3}]', "{}"):
        board.write_text(odd)
        with pytest.raises(UsageError, match="none of that name"):
            find_runs(["words/3"], Path.cwd())


def test_its_leaderboard_is_its_own_and_its_runs_have_their_trials_names(made):
    assert [trial.number for trial in reading.read(made.folder).trials] == [1, 2, 0]
    assert [one.best for one in studies.studies(made.folder.path.parent).studies] == [1]
    found = [(one.name, one.run.path.name) for one in candidates.candidates(made.folder)]
    assert found == [(f"words/{number}", made.run(number).path.name) for number in (1, 2, 0)]


def test_a_leaderboard_of_another_study_is_still_refused(made, tmp_path):
    other = Written(tmp_path / "other", COMPLETE, name="sums").write()
    made.folder.leaderboard.write_bytes(other.leaderboard.read_bytes())
    with pytest.raises(UsageError, match="names other runs"):
        list(candidates.candidates(made.folder))


def test_the_study_of_a_run_is_found(made):
    for number in range(3):
        ((study, job),) = finding.holding(made.run(number), Path.cwd())
        assert (study.path.name, job.name) == ("words", str(number))


def test_without_database_and_leaderboard_its_trials_are_those_that_hydra_noted(made):
    for file in (made.folder.database, made.folder.leaderboard, made.folder.verdict):
        file.unlink()
    study = reading.read(made.folder)
    assert {trial.number: trial.runs[0].folder for trial in study.trials} == {
        number: made.run(number).path.resolve() for number in range(3)
    }
    assert [dict(one.trials) for one in studies.studies(made.folder.path.parent).studies] == [{"complete": 3}]


def test_each_of_several_seeds_is_a_job_of_its_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = named_by(Written(tmp_path, COMPLETE[:2], seeds=(0, 1)), "by/{other}")
    assert [job.name for job in Folders.of(made.folder).jobs] == ["0/seed_0", "0/seed_1", "1/seed_0", "1/seed_1"]
    assert find_runs(["words/1/seed_1"], tmp_path) == [RunFolder(made.run(1, 1).path.resolve())]


def test_a_folder_with_a_link_of_that_name_is_no_study(tmp_path):
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "run").symlink_to(tmp_path)
    assert not finding.is_study(StudyFolder(tmp_path))
