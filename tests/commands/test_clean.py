"""`lowrung clean` on folders as sweeps leave them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lowrung.__main__ import main
from lowrung.commands import clean
from lowrung.config.schema import Config
from lowrung.errors import UsageError
from lowrung.store import atomic, layout
from lowrung.store.layout import JobFolder, RunFolder, StudyFolder
from lowrung.store.outcome import Outcome, Status
from tests.terminal import PATIENCE

CONFIG = OmegaConf.to_yaml(OmegaConf.structured(Config))


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """A working folder with a space in its name."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def make_run(name, store=Path("runs")):
    """A complete run with an adapter, and 1 kB in each of the folders that can be made again."""
    run = layout.run_folder(store.absolute(), name)
    atomic.write_text(run.config, CONFIG)
    Outcome(Status.COMPLETE, {"eval/loss": 1.0}).write(run.outcome)
    for folder in (run.adapter, run.checkpoints, run.scratch, run.merged):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").write_bytes(bytes(1000))
    return run


def make_study(name, *runs, multirun=Path("multirun")):
    study = StudyFolder((multirun / name).absolute())
    atomic.write_text(study.path / "multirun.yaml", CONFIG)
    study.database.write_bytes(bytes(500))
    for number, run in enumerate(runs):
        (study.job(number).path / ".hydra").mkdir(parents=True)
        layout.point_to(study.job(number).run, run.path)
    return study


def made_again(run):
    return [run.checkpoints, run.scratch, run.merged]


def exists(paths):
    return {path.exists() for path in paths}


def files(folder):
    return {path for path in folder.rglob("*") if path.name != ".lock"}


class TestWithoutAll:
    def test_what_can_be_made_again_goes_and_the_result_stays(self, capsys):
        runs = [make_run("ab12"), make_run("cd34")]
        study = make_study("mine", *runs)
        bystander = make_run("ef56")
        main(["clean", "mine"])
        for run in runs:
            assert exists(made_again(run)) == {False}
            assert (run.adapter / "inner" / "file").exists()
            assert Outcome.read(run.outcome) is not None
        assert study.database.exists()
        assert exists(made_again(bystander)) == {True}
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            *(f"  1.0 kB  {path}" for run in runs for path in made_again(run)),
            "  6.0 kB  in total deleted",
        ]

    def test_there_may_be_nothing_to_delete(self, capsys):
        make_study("mine", make_run("ab12"))
        main(["clean", "mine"])
        capsys.readouterr()
        main(["clean", "mine"])
        assert capsys.readouterr().out == "     0 B  in total deleted\n"

    def test_a_run_without_an_outcome_yet_is_a_run(self):
        run = make_run("ab12")
        run.outcome.unlink()
        make_study("mine", run)
        main(["clean", "mine"])
        assert exists(made_again(run)) == {False}
        assert run.config.exists()

    def test_several_jobs_of_one_run_count_once(self, capsys):
        run = make_run("ab12")
        make_study("mine", run, run)
        main(["clean", "mine"])
        assert "3.0 kB  in total" in capsys.readouterr().out


class TestAll:
    def test_the_study_and_its_runs_go(self, capsys):
        run = make_run("ab12")
        study = make_study("mine", run)
        main(["clean", "mine", "--all"])
        assert not run.path.exists()
        assert not study.path.exists()
        printed = capsys.readouterr().out
        assert f"  {run.path}\n" in printed
        assert f"  {study.path}\n" in printed
        assert "kept" not in printed

    def test_runs_that_other_studies_point_to_stay(self, capsys):
        alone, shared, also_shared, nested = (make_run(name) for name in ("ab12", "cd34", "ef56", "0789"))
        study = make_study("mine", alone, shared, also_shared, nested)
        make_study("theirs", shared)
        make_study("nested", nested, multirun=Path("multirun/group"))
        layout.point_to(JobFolder(Path("outputs/2026-11-01/10-00-00").absolute()).run, also_shared.path)
        main(["clean", "mine", "--all"])
        assert not study.path.exists()
        assert not alone.path.exists()
        for run in (shared, also_shared, nested):
            assert Outcome.read(run.outcome) is not None
            assert exists(made_again(run)) == {False}
        assert "3 runs were kept, since other studies use them" in capsys.readouterr().out

    def test_a_study_below_another_folder_is_no_other_study(self, capsys):
        run = make_run("ab12")
        study = make_study("mine", run, multirun=Path("multirun/group"))
        main(["clean", "group/mine", "--all"])
        assert not run.path.exists()
        assert not study.path.exists()
        assert "kept" not in capsys.readouterr().out

    def test_a_run_that_is_in_use_keeps_the_study(self, capsys):
        used, free = make_run("ab12"), make_run("cd34")
        study = make_study("mine", used, free)
        with atomic.lock(used.lock):
            main(["clean", "mine", "--all"])
        assert exists([study.path, used.outcome, used.checkpoints]) == {True}
        assert not free.path.exists()
        assert (
            f"skipped, since another process works there, or a job of SLURM's waits: {used.path}\n"
            in capsys.readouterr().out
        )


class TestDryRun:
    @pytest.mark.parametrize("options", [[], ["--all"]])
    def test_the_same_is_said_and_nothing_is_changed(self, here, capsys, options):
        study = make_study("mine", make_run("ab12"), make_run("cd34"))
        before = set(here.rglob("*"))
        main(["clean", "mine", "--dry-run", *options])
        assert set(here.rglob("*")) == before
        foretold = capsys.readouterr().out
        assert "a dry run: nothing was deleted" in foretold
        main(["clean", "mine", *options])
        done = capsys.readouterr().out
        assert foretold.replace("; a dry run: nothing was deleted", " deleted") == done
        assert study.path.exists() == (options == [])


class TestInUse:
    def test_a_run_that_is_in_use_is_skipped(self, capsys):
        used, free = make_run("ab12"), make_run("cd34")
        make_study("mine", used, free)
        with atomic.lock(used.lock):
            main(["clean", "mine"])
        assert exists(made_again(used)) == {True}
        assert exists(made_again(free)) == {False}
        assert (
            f"skipped, since another process works there, or a job of SLURM's waits: {used.path}\n"
            in capsys.readouterr().out
        )

    @pytest.mark.parametrize("options", [[], ["--all"]])
    def test_a_run_whose_job_may_wait_in_slurms_queue_is_skipped(self, capsys, options):
        waits, ended = make_run("ab12"), make_run("cd34")
        make_study("mine", waits, ended)
        for run in (waits, ended):
            run.slurm_job.write_text('{"job": "7"}')
        waits.outcome.unlink()
        main(["clean", "mine", *options])
        assert exists(made_again(waits)) == {True}
        assert exists(made_again(ended)) == {False}
        assert f"or a job of SLURM's waits: {waits.path}\n" in capsys.readouterr().out

    @pytest.mark.parametrize("options", [[], ["--all"]])
    def test_a_study_that_is_in_use_is_left_alone(self, here, capsys, options):
        study = make_study("mine", make_run("ab12"))
        with atomic.lock(study.lock):
            before = files(here)
            main(["clean", "mine", *options])
            assert files(here) == before
        printed = capsys.readouterr().out
        assert f"skipped, since another process works there, or a job of SLURM's waits: {study.path}\n" in printed

    def test_a_run_that_is_taken_after_the_look_is_skipped(self):
        run = make_run("ab12")
        found = clean.survey(make_study("mine", run), everything=False)
        with atomic.lock(run.lock):
            done = clean.delete(found)
        assert exists(made_again(run)) == {True}
        assert (list(done.items), list(done.held)) == ([], [run.path])


class TestWhatIsNoRun:
    """Links may lead anywhere: nothing is deleted but what lowrung made."""

    @pytest.mark.parametrize("options", [[], ["--all"]])
    def test_a_folder_that_is_not_a_run_stays(self, here, capsys, options):
        photos = here / "photos"
        (photos / "checkpoints").mkdir(parents=True)
        (photos / "config.yaml").write_text("model: a camera\ndata: none\n")
        (photos / "outcome.json").write_text('{"status": "lovely"}')
        before = files(photos)
        make_study("mine", RunFolder(photos))
        main(["clean", "mine", *options])
        assert files(photos) == before
        assert f"skipped, since it is not a run's folder: {photos}\n" in capsys.readouterr().out

    @pytest.mark.parametrize("options", [[], ["--all"]])
    def test_a_run_that_is_a_link_out_of_the_store_stays(self, here, options):
        elsewhere = make_run("ab12", here / "elsewhere")
        (here / "runs").mkdir()
        (here / "runs" / "cd34").symlink_to(elsewhere.path)
        make_study("mine", RunFolder(here / "runs" / "cd34"))
        main(["clean", "mine", *options])
        assert exists(made_again(elsewhere)) == {True}

    @pytest.mark.parametrize("options", [[], ["--all"]])
    def test_links_in_a_run_are_not_followed(self, here, options):
        elsewhere = here / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "precious").write_text("mine")
        run = make_run("ab12")
        (run.checkpoints / "link").symlink_to(elsewhere)
        (run.merged / "inner" / "file").unlink()
        (run.merged / "inner").rmdir()
        run.merged.rmdir()
        run.merged.symlink_to(elsewhere)
        make_study("mine", run)
        main(["clean", "mine", *options])
        assert not run.checkpoints.exists()
        assert (elsewhere / "precious").read_text() == "mine"

    def test_a_store_behind_a_link_is_a_store(self, here):
        run = make_run("ab12", here / "a large disk")
        (here / "runs").symlink_to(here / "a large disk")
        make_study("mine", RunFolder(here / "runs" / "ab12"))
        main(["clean", "mine"])
        assert exists(made_again(run)) == {False}

    def test_a_link_that_dangles_is_skipped(self, here, capsys):
        run = make_run("ab12")
        make_study("mine", run, RunFolder(here / "runs" / "gone"))
        main(["clean", "mine"])
        assert exists(made_again(run)) == {False}
        assert "gone" not in capsys.readouterr().out


class TestWhichStudy:
    def test_a_folder_s_path_will_do_from_anywhere(self, here, monkeypatch):
        run = make_run("ab12")
        study = make_study("mine", run)
        make_study("theirs", run)
        monkeypatch.chdir("/")
        main(["clean", str(study.path), "--all"])
        assert not study.path.exists()
        assert run.outcome.exists()

    def test_an_unknown_one_is_refused_with_those_that_there_are(self, here, capsys):
        make_study("numbers-ab12")
        make_study("words-cd34")
        (here / "multirun" / "strange").mkdir()
        with pytest.raises(SystemExit) as ended:
            main(["clean", "number-ab12"])
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert "'number-ab12'. Did you mean numbers-ab12? There are: numbers-ab12, words-cd34." in message
        assert "strange" not in message

    @pytest.mark.parametrize("name", [".", "..", "runs", "/", "multirun", "multirun/mine/0"])
    def test_what_is_not_a_study_is_refused(self, here, name):
        make_study("mine", make_run("ab12"))
        before = files(here)
        with pytest.raises(UsageError, match="STUDY must be a study"):
            clean.find(name, here)
        assert files(here) == before

    def test_there_may_be_no_study_at_all(self, here):
        with pytest.raises(UsageError, match="There are none"):
            clean.find("mine", here)

    def test_the_folder_that_one_is_in_is_refused(self, here):
        study = make_study("mine", make_run("ab12"))
        with pytest.raises(UsageError, match="must not hold the folder that you are in"):
            clean.find(".", study.path)
        with pytest.raises(UsageError, match="must not hold the folder that you are in"):
            clean.find("..", study.job(0).path)


def test_what_cannot_be_deleted_ends_with_a_message(monkeypatch, capsys):
    run = make_run("ab12")
    make_study("mine", run)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)  # root, as which some run tests, may delete anything
    with pytest.raises(SystemExit) as ended:
        main(["clean", "mine"])
    assert ended.value.code == 1
    assert (
        f"{run.checkpoints} must be readable and deletable, but it is not: Permission denied."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (3e9, "3.0 GB"), (5e12, "5.0 TB")],
)
def test_sizes_have_human_units(size, text):
    item = clean.Item(Path("/there"), size, Path("/lock"))
    assert f"{text}  /there" in str(clean.Cleaning([item]))


@pytest.mark.slow
def test_it_is_a_command(here):
    run = make_run("ab12")
    make_study("mine", run)
    done = subprocess.run(
        [sys.executable, "-m", "lowrung", "clean", "mine"], cwd=here, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "3.0 kB  in total deleted" in done.stdout
    assert exists(made_again(run)) == {False}
    shown = subprocess.run(
        [sys.executable, "-m", "lowrung", "clean", "--help"],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "Nothing is deleted in MLflow" in " ".join(shown.stdout.split())
