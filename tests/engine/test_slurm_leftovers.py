"""What jobs leave that ended while no coordinator was there, with a stand-in for squeue."""

import os
from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="submitit is not installed: pip install 'lowrung[slurm]'")

from lowrung.engine import slurm_leftovers
from lowrung.engine.slurm_submission import Submitted
from lowrung.store import atomic, layout
from lowrung.store.layout import RunFolder
from tests.engine.test_slurm_cluster import stand_in


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store, and a SLURM that knows of a job 1, which runs, and of a job 2, which has ended."""
    (tmp_path / "bin").mkdir()
    stand_in(tmp_path / "bin", "squeue", 'printf "1|RUNNING|n1|None\\n2|COMPLETED|n1|None\\n"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "store"


def left(store: Path, job: str, run: str | None = None, *, age: float = 0.0) -> Path:
    """The files of a job, which the record in a run's folder names; returns the file of its task."""
    files = layout.slurm_folder(store / "any") / f"files-{job}"
    files.mkdir(parents=True)
    task = files / f"{job}_submitted.pkl"
    task.touch()
    if run:
        (store / run).mkdir()
        Submitted(job, files.resolve()).note(RunFolder(store / run))
    for path in (task, files):
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    return task


@pytest.mark.parametrize("job", ["2", "3", "3_1"])
def test_a_job_that_has_ended_or_is_forgotten(store: Path, job: str) -> None:
    left(store, job, "run")
    slurm_leftovers.tidy(store)
    assert not layout.slurm_folder(store / "run").exists()
    assert not RunFolder(store / "run").slurm_job.exists()


def test_what_stays(store: Path) -> None:
    running, held, young, old = (
        left(store, "1", "a"),
        left(store, "2", "b"),
        left(store, "4"),
        left(store, "5", age=7200),
    )
    with atomic.lock(RunFolder(store / "b").submitted):
        slurm_leftovers.tidy(store)
    assert [path.exists() for path in (running, held, young, old)] == [True, True, True, False]
    assert RunFolder(store / "a").slurm_job.exists()


def test_a_store_behind_a_link(store: Path) -> None:
    task = left(store, "2", "a")
    (store.parent / "link").symlink_to(store)
    with atomic.lock(RunFolder(store / "a").submitted):
        slurm_leftovers.tidy(store.parent / "link")
    assert task.exists()
    slurm_leftovers.tidy(store.parent / "link")
    assert not task.exists()


def test_a_record_that_cannot_be_read_and_a_slurm_that_is_away(store: Path) -> None:
    task = left(store, "2", "a", age=7200)
    RunFolder(store / "a").slurm_job.write_text("{")
    stand_in(store.parent / "bin", "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    slurm_leftovers.tidy(store)
    assert task.exists()


def test_a_store_without_any(store: Path) -> None:
    slurm_leftovers.tidy(store)
    assert not store.exists()
