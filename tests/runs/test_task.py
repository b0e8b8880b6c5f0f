"""A trial in its own process: what the job does that a coordinator has left an assignment for."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.utils import run_job
from hydra.types import HydraContext
from mlflow import MlflowClient
from mlflow.entities import Run

from lowrung.config import structured
from lowrung.errors import StoreError
from lowrung.runs import execution, inputs, task
from lowrung.runs.folder import prepare_folder
from lowrung.runs.task import Assigned, Assignment, Ran
from lowrung.store import layout
from lowrung.store.outcome import Outcome, Status
from lowrung.store.results import TakenBack
from lowrung.track import recording
from lowrung.track.base import Opening
from tests import composing
from tests.composing import Composer
from tests.stage import SEEN, Silent

SMALL = ("model=tiny", "data=number_words", "data.train_size=16", "data.eval_size=8", "train.max_steps=3")


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with composing.composer() as made:
        yield made


def trial(composer: Composer, *overrides: str, lost: bool = False) -> tuple[object, Run]:
    """Runs a trial as the coordinator has it run, in this folder; gives what it returns, and its tracked run."""
    composed = composer.compose([*SMALL, "verify=none", "hydra.run.dir=job", "hydra/job_logging=none", *overrides])
    config = structured.resolve(composed)
    seen = inputs.preflight(config)
    folder = layout.run_folder(Path("runs").absolute(), inputs.run_signature(config, seen, threads=1))
    claim = prepare_folder(folder, config, seen, threads=1)
    uri = recording.tracking_uri(config)
    assert uri
    tracker = recording.made(uri, "lowrung", Path("mlruns").absolute())
    opening = Opening("r=8", "key", {"lora.r": "8"}, {"lowrung.kind": "trial"})
    tracked = opening.open(tracker)
    assignment = Assignment(
        folder=folder,
        claim=claim,
        preflight=seen,
        threads=1,
        planned=None,
        tracking=f"{uri}.lost" if lost else uri,
        experiment="lowrung",
        opening=opening,
    )
    context = HydraContext(composer.hydra.config_loader, callbacks=Silent())  # type: ignore[arg-type]
    returned = run_job(
        hydra_context=context,
        task_function=Assigned(task.run, assignment),
        config=composed,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
    )
    return returned.return_value, MlflowClient(uri).get_run(tracked)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_job_that_is_not_the_assigned_run_is_refused(composer: Composer) -> None:
    config = structured.resolve(composer.compose(["model=tiny", "lora.r=4"]))
    folder = layout.run_folder(Path("runs").absolute(), inputs.run_signature(config, SEEN, threads=1))
    assignment = Assignment(folder, "claim", SEEN, 1, None, None, "experiment", None)
    of_rank_4 = Assigned(task.run, assignment)
    with pytest.raises(StoreError, match=rf"the run that it was assigned, {folder.path.name}, but is [0-9a-f]+: its"):
        of_rank_4(composer.compose(["model=tiny", "lora.r=16"]))
    with pytest.raises(TakenBack):  # the right run, whose folder is not there
        of_rank_4(composer.compose(["model=tiny", "lora.r=4"]))
    assert task.assigned() is None
    assert not folder.path.exists()


@pytest.mark.slow
def test_it_tracks_all_and_closes_its_tracked_run(composer: Composer) -> None:
    returned, run = trial(composer)
    assert returned == Ran(Status.COMPLETE, is_tracked=True)
    assert {"eval/loss", "train/loss", "params/trainable", "time/total_seconds"} <= run.data.metrics.keys()
    assert run.inputs
    assert [data.dataset.name for data in run.inputs.dataset_inputs] == ["number_words", "number_words"]
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "adapter" / "adapter_model.safetensors").is_file()
    assert (run.info.status, run.data.tags["lowrung.status"]) == ("FINISHED", "complete")


@pytest.mark.slow
def test_one_that_found_no_tracker_says_so(composer: Composer, capfd: pytest.CaptureFixture[str]) -> None:
    returned, run = trial(composer, lost=True)
    assert returned == Ran(Status.COMPLETE, is_tracked=False)
    assert not run.data.metrics
    assert "warning: not all of r=8 is tracked: There is no database at " in capfd.readouterr().out


@pytest.mark.slow
def test_sigterm_ends_it_with_a_checkpoint(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [signal.SIGTERM]

    def add(*_: object) -> None:
        if numbers:
            signal.raise_signal(numbers.pop())

    monkeypatch.setattr(recording.History, "add", add)
    returned, run = trial(composer, "train.eval_steps=3")
    assert returned == Ran(Status.CANCELLED, is_tracked=False)
    assert list(Path("runs").glob("*/checkpoints/checkpoint-1/complete.json"))
    assert run.info.status == "RUNNING"  # the coordinator closes it, or tries the run again


@pytest.mark.slow
def test_a_failure_is_left_to_the_coordinator_which_may_try_it_again(
    composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "execute", lambda *_, **__: Outcome(Status.OOM, cause="out of memory"))
    returned, run = trial(composer)
    assert returned == Ran(Status.OOM, is_tracked=False)
    assert "lowrung.cause" not in run.data.tags
