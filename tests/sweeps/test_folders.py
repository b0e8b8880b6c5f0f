"""The folders of jobs: what would mix trials or studies is refused before anything starts."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowrung.errors import UsageError
from lowrung.store.layout import StudyFolder
from lowrung.sweeps.folders import Taken
from tests.stage import RATE, ranks

GRID = ("lora.r=2,4", "train.max_steps=1,2")


@pytest.mark.parametrize(
    ("subdir", "space", "said"),
    [
        pytest.param(
            "r${lora.r}", GRID, "lora.r=2, train.max_steps=1 and lora.r=2, train.max_steps=2 share", id="axis"
        ),
        pytest.param("same", GRID, "share", id="constant", marks=pytest.mark.slow),
        pytest.param("x/../same", GRID, "share", id="by another way", marks=pytest.mark.slow),
        pytest.param(
            "a${lora.r}${train.max_steps}",
            ("lora.r=1,11", "train.max_steps=11,1"),
            "share",
            id="digits",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "${lora.r}", ("lora.r=2", RATE), "share", id="a search that it does not follow", marks=pytest.mark.slow
        ),
        pytest.param("${train.learning_rate}", ("lora.r=2,4", RATE), "lora.r=2 and lora.r=4 share", id="nor its grid"),
        pytest.param("/elsewhere", GRID, "a folder below the study's", id="absolute"),
        pytest.param(
            "../other/${hydra.job.num}", GRID, "a folder below the study's", id="upwards", marks=pytest.mark.slow
        ),
        pytest.param(".", ("lora.r=2",), "a folder below the study's", id="the study's own", marks=pytest.mark.slow),
        pytest.param(
            "study.db", ("lora.r=2",), "leave the study's own files alone", id="the database", marks=pytest.mark.slow
        ),
        pytest.param(
            "preflight/${hydra.job.num}",
            GRID,
            "leave the study's own files alone",
            id="the preflight's",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "x" * 250 + "-${hydra.job.num}${lora.r}${seed}1234",
            GRID,
            "at most 255 bytes",
            id="long",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_folders_that_mix_trials_are_refused(here, subdir, space, said):
    n_trials = 3 if RATE in space else None
    with pytest.raises(UsageError) as caught:
        here.sweep(*space, f"hydra.sweep.subdir='{subdir}'", n_trials=n_trials)
    assert all(problem.startswith("hydra.sweep.subdir must ") for problem in caught.value.problems)
    assert said in caught.value.problems[0]
    assert "${hydra.job.num}" in caught.value.problems[0]
    assert here.ran == []
    assert not here.tracker.runs
    assert {path.name for path in here.study.path.iterdir()} == {"study.db"}


@pytest.mark.parametrize(
    ("subdir", "space"),
    [
        ("r${lora.r}-${train.max_steps}", GRID),
        ("deep/${hydra.job.num}/er", GRID),
        ("${hydra.job.override_dirname}", ("lora.r=2,4", RATE)),
    ],
)
@pytest.mark.slow
def test_folders_of_ones_own_are_not(here, subdir, space):
    n_trials = 4 if RATE in space else None
    assert len(here.sweep(*space, f"hydra.sweep.subdir='{subdir}'", n_trials=n_trials)) == 4
    runs = {link.resolve() for link in here.study.path.rglob("run")}
    assert len(runs) == 4
    assert here.sweep(*space, f"hydra.sweep.subdir='{subdir}'", n_trials=n_trials) == []


@pytest.mark.slow
def test_a_failed_trial_comes_again_in_its_folder(here):
    (run,) = [here.sweep("lora.r=4", "hydra.sweep.subdir='r${lora.r}'") and next(Path("runs").iterdir())]
    (run / "outcome.json").unlink()
    assert ranks(here.sweep("lora.r=4", "hydra.sweep.subdir='r${lora.r}'")) == [4]


def test_a_sweeps_folder_that_depends_on_the_trial_is_refused(here):
    with pytest.raises(UsageError, match=r"hydra.sweep.dir must be the same for all trials"):
        here.sweep("lora.r=2,4", "hydra.sweep.dir='by-${lora.r}'")


@pytest.mark.slow
def test_the_clock_is_read_once_for_all_jobs(here, monkeypatch):
    """``hydra.sweep.dir`` has the time in it as long as the study has no name."""
    ticks = itertools.count()
    moment = SimpleNamespace(strftime=lambda pattern: str(next(ticks)))
    monkeypatch.setattr("hydra.core.utils.datetime", SimpleNamespace(now=lambda: moment))
    assert ranks(here.sweep("lora.r=2,4", "study=null")) == [2, 4]


class TestOtherStudies:
    @pytest.mark.slow
    def test_two_studies_do_not_share_a_folder(self, here):
        here.sweep("lora.r=2", "study='no. 1'", "hydra.sweep.dir=mine")
        before = {path: path.read_bytes() for path in Path("mine").rglob("*.yaml")}
        with pytest.raises(UsageError, match=r"mine is that of study 'no. 1', and this is 'second'.*study='no. 1'"):
            here.sweep("lora.r=4", "study=second", "hydra.sweep.dir=mine")
        assert {path: path.read_bytes() for path in Path("mine").rglob("*.yaml")} == before
        assert here.sweep("lora.r=2", "study='no. 1'", "hydra.sweep.dir=mine") == []

    @pytest.mark.slow
    def test_nor_lie_in_each_others_jobs(self, here):
        here.sweep("lora.r=2")
        with pytest.raises(UsageError, match="must not be in a job's folder"):
            here.sweep("lora.r=4", "study=second", "hydra.sweep.dir=multirun/s/0/more")
        with pytest.raises(UsageError, match="must not lead into another study's folder"):
            here.sweep(
                "lora.r=4", "study=second", "hydra.sweep.dir=multirun", "hydra.sweep.subdir='s/${hydra.job.num}'"
            )


class TestTaken:
    def test_values_that_were_drawn_do_not_share_a_folder(self, tmp_path):
        taken = Taken(StudyFolder(tmp_path))
        for _ in range(2):  # equal values are the same run
            taken.take(tmp_path / "1", {"lora.r": 4}, 0)
        taken.take(tmp_path / "2", {"lora.r": 8}, 0)
        for params, seed in (({"lora.r": 8}, 0), ({"lora.r": 4}, 1)):
            with pytest.raises(UsageError, match=rf"two trials have {tmp_path}/1"):
                taken.take(tmp_path / "1", params, seed)
