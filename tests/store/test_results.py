"""The store cannot be poisoned: what lies under a signature counts only as its own run left it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lowrung.runs.folder import kept_outcome
from lowrung.store import atomic, results
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.store.results import TakenBack

COMPLETE = Outcome(Status.COMPLETE, {"eval/loss": 2.5})


def ran(path: Path, weights: bytes = b"trained") -> RunFolder:
    """A run's folder after its run."""
    folder = RunFolder(path)
    (folder.adapter / "tokenizer").mkdir(parents=True)
    (folder.adapter / "adapter_model.safetensors").write_bytes(weights)
    (folder.adapter / "tokenizer" / "vocabulary.json").write_text("{}")
    atomic.write_json(folder.environment, {"signature": path.name})
    results.save(COMPLETE, folder, results.claim(folder))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return ran(tmp_path / "aaaa")


def outcome_of_another(folder: RunFolder) -> None:
    shutil.copy(ran(folder.path.with_name("bbbb")).outcome, folder.outcome)


def all_of_another(folder: RunFolder) -> None:
    shutil.rmtree(folder.path)
    ran(folder.path.with_name("bbbb")).path.rename(folder.path)


def other_weights(folder: RunFolder) -> None:
    (folder.adapter / "adapter_model.safetensors").write_bytes(b"Trained")


def a_lost_file(folder: RunFolder) -> None:
    (folder.adapter / "tokenizer" / "vocabulary.json").unlink()


def a_lost_adapter(folder: RunFolder) -> None:
    shutil.rmtree(folder.adapter)


def a_further_file(folder: RunFolder) -> None:
    (folder.adapter / "tokenizer" / "merges.txt").write_text("")


def a_model_beside_it(folder: RunFolder) -> None:
    folder.model.mkdir()
    (folder.model / "model.safetensors").write_bytes(b"")


def an_outcome_by_hand(folder: RunFolder) -> None:
    COMPLETE.write(folder.outcome)


def test_what_a_run_left_is_its_result(run: RunFolder) -> None:
    outcome = kept_outcome(run)
    assert outcome is not None
    assert outcome.metrics == COMPLETE.metrics
    assert results.put_strangers_aside(run) is None
    assert kept_outcome(run) == outcome


@pytest.mark.parametrize(
    "spoil",
    [
        outcome_of_another,
        all_of_another,
        other_weights,
        a_lost_file,
        a_lost_adapter,
        a_further_file,
        a_model_beside_it,
        an_outcome_by_hand,
    ],
)
def test_anything_else_is_not_and_is_kept_aside(run: RunFolder, spoil: Callable[[RunFolder], None]) -> None:
    spoil(run)
    names = {path.relative_to(run.path) for path in run.path.rglob("*") if path != run.lock}
    assert kept_outcome(run) is None
    said = results.put_strangers_aside(run)
    aside = run.path.parent / ".aside" / "aaaa-1"
    assert said
    assert said.startswith(f"what is in {run.path} is not used, since ")
    assert f"it was moved to {aside}" in said
    assert {path.relative_to(aside) for path in aside.rglob("*")} == names
    assert not any(path != run.lock for path in run.path.iterdir())


def test_a_second_time_is_kept_beside_the_first(run: RunFolder) -> None:
    for _ in range(2):
        other_weights(run)
        assert results.put_strangers_aside(run)
        ran(run.path)
    assert {path.name for path in (run.path.parent / ".aside").iterdir()} == {"aaaa-1", "aaaa-2"}


@pytest.mark.parametrize("made_for", ["bbbb", None])
def test_the_checkpoints_of_a_run_that_was_renamed_are_not_gone_on_from(run: RunFolder, made_for: str | None) -> None:
    run.outcome.unlink()
    run.checkpoints.mkdir()
    assert results.put_strangers_aside(run) is None
    run.environment.unlink()
    if made_for:
        atomic.write_json(run.environment, {"signature": made_for})
    assert results.put_strangers_aside(run)
    assert not run.checkpoints.exists()


def test_a_job_whose_folder_was_given_to_another_leaves_nothing(run: RunFolder) -> None:
    mine = results.claim(run)
    before = run.outcome.read_text()
    theirs = results.claim(run)
    with pytest.raises(TakenBack, match="was given to another job"):
        results.save(Outcome(Status.FAILED), run, mine)
    assert run.outcome.read_text() == before
    results.save(COMPLETE, run, theirs)
    shutil.rmtree(run.path)
    with pytest.raises(TakenBack):
        results.save(COMPLETE, run, theirs)
    assert not run.path.exists()


def test_an_outcome_of_another_run_is_not_what_a_job_left(run: RunFolder) -> None:
    assert results.left_by(run) is not None
    outcome_of_another(run)
    assert results.left_by(run) is None
