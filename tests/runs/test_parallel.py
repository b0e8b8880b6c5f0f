"""One run on several ranks: two processes on this machine's CPU, which talk by gloo."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowrung.finetune.lora import adapter
from lowrung.runs import execution, inputs, parallel
from lowrung.runs.computation import Computation
from lowrung.runs.folder import prepare_folder
from lowrung.runs.parallel import Launch, Place
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.track.base import Point
from tests import composing

pytestmark = pytest.mark.slow

SMALL = (
    *("model=tiny", "data=number_words", "data.train_size=29", "data.eval_size=10", "data.metrics=[]", "track=none"),
    *("train.max_steps=10", "train.eval_steps=5", "train.batch_size=4", "train.eval_batch_size=4"),
    *("train.learning_rate=1e-2", "train.gradient_accumulation_steps=2", "verify.prompts=2", "verify.new_tokens=2"),
)
"""The last batch of an epoch, the eighth, has one row: none is left for the second rank."""

DDP = ("train.parallel=ddp", "train.ranks=2")
FSDP = ("train.parallel=fsdp", "train.ranks=2")


@dataclasses.dataclass(frozen=True)
class Ran:
    """What came of a run: its outcome, what it reported, and what it saved."""

    outcome: Outcome
    points: list[Point]
    folder: RunFolder

    @property
    def history(self) -> list[tuple[int, dict[str, float]]]:
        exact = {"train/tokens_per_second"}
        return [(point.step, {k: v for k, v in point.metrics.items() if k not in exact}) for point in self.points]

    @property
    def weights(self) -> Mapping[str, torch.Tensor]:
        return load_file(self.folder.adapter / "adapter_model.safetensors")


def run(folder: Path, *overrides: str, stop_reason: Callable[[], str | None] = lambda: None) -> Ran:
    with composing.composer() as composer:
        config = composer.config(*SMALL, *overrides, f"store='{folder.parent / 'runs'}'")
    seen = inputs.preflight(config)
    assert not seen.problems
    claim = prepare_folder(RunFolder(folder), config, seen, threads=2)
    points: list[Point] = []
    outcome = execution.execute(
        Computation(config, RunFolder(folder), seen.data_folder, inputs.base_folder(config, seen, 2), threads=2),
        claim=claim,
        planned=None,
        on_point=points.append,
        stop_reason=stop_reason,
    )
    return Ran(outcome, points, RunFolder(folder))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def alone(place: Path) -> Ran:
    return run(place / "alone")


def at_step(step: int, act: Callable[[], str | None]) -> Callable[[], str | None]:
    """Acts when it is asked after a step, and from then on."""
    steps: list[None] = []

    def asked() -> str | None:
        steps.append(None)
        return act() if len(steps) >= step else None

    return asked


@pytest.mark.parametrize("kind", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_two_ranks_give_what_one_process_gives(place: Path, alone: Ran, kind: tuple[str, str]) -> None:
    both = run(place / kind[0], *kind)
    assert both.outcome.status is Status.COMPLETE, (both.folder.log.read_text(), both.outcome)
    assert both.outcome.facts["gate_failures"] == []
    assert [step for step, _ in both.history] == [step for step, _ in alone.history]
    for (step, reported), (_, expected) in zip(both.history, alone.history, strict=True):
        assert reported == pytest.approx(expected, rel=1e-5), step  # 8e-7 was measured, and 8e-6 of gradient norms
    ours, theirs = both.outcome.metrics, alone.outcome.metrics
    assert ours.keys() == theirs.keys()
    scores = [name for name in theirs if not name.startswith("merge/")]
    assert {name: ours[name] for name in scores} == pytest.approx({name: theirs[name] for name in scores}, rel=1e-5)
    for name, tensor in alone.weights.items():
        assert torch.allclose(both.weights[name], tensor, atol=1e-4), name  # AdamW makes much of a gradient near 0


def test_a_run_that_is_stopped_and_one_that_loses_a_rank_go_on_as_if_nothing_had_been(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank has its own random numbers for dropout, which its checkpoint keeps."""
    started: list[Any] = []
    start = Launch._start

    def noted(self: Launch, ranks: list[Any], meeting: Path) -> None:
        start(self, ranks, meeting)
        started[:] = [rank.process for rank in ranks]

    monkeypatch.setattr(Launch, "_start", noted)
    drops, folder = (*DDP, "lora.dropout=0.1"), place / "disturbed"
    undisturbed = run(place / "undisturbed", *drops)
    stopped = run(folder, *drops, stop_reason=at_step(3, lambda: "pruned")).outcome
    assert (stopped.status, stopped.metrics["stopped/step"]) == (Status.PRUNED, 3)
    kill = at_step(5, lambda: os.kill(started[1].pid, signal.SIGKILL))
    lost = run(folder, *drops, stop_reason=kill).outcome
    assert (lost.status, lost.cause) == (Status.FAILED, "rank 1 of 2 was lost (SIGKILL)")
    assert lost.facts[parallel.LOST] == 1
    assert all(process.exitcode is not None for process in started)
    resumed = run(folder, *drops)
    assert [line for line in resumed.folder.log.read_text().splitlines() if line.startswith("going on")] == [
        "going on from step 3",
        "going on from step 5",
    ]
    assert resumed.outcome.metrics == undisturbed.outcome.metrics
    assert resumed.history[-6:] == undisturbed.history[-6:]


def saves_another_adapter(*arguments: Any) -> None:
    """What a rank does, with a fault: what is saved is not what was trained."""
    save = adapter.save

    def faulty(model: Any, tokenizer: Any, folder: Path, **named: Any) -> int:
        size = save(model, tokenizer, folder, **named)
        file = folder / "adapter_model.safetensors"
        save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
        return size

    adapter.save = faulty
    execution._run_joined(*arguments)


def test_the_gate_sees_that_another_adapter_was_saved_than_ranks_trained(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "_run_joined", saves_another_adapter)
    failures = run(place / "faulty", *FSDP, "train.max_steps=2").outcome.facts["gate_failures"]
    assert any(failure.startswith("reloaded adapter: max") for failure in failures)


def launch(folder: Path, work: Callable[[Place], None], report: Callable[..., None] = lambda *_: None) -> Outcome:
    return Launch(work, 2, 1, RunFolder(folder)).run(report, lambda: None)


def ends(status: Status, place: Place) -> None:
    place.report(place.rank, {})
    place.end(Outcome(status, measurements={"memory/peak_bytes": 1 + place.rank}, cause=f"rank {place.rank}"))


def second_is_out_of_memory(what_the_first_does: str, place: Place) -> None:
    if place.rank == 1:
        ends(Status.OOM, place)
        place.meeting.touch()
        return
    while not place.meeting.exists() or what_the_first_does == "waits":
        time.sleep(0.01)
    ends(Status.FAILED, place)


def test_the_first_rank_reports_for_all_and_memory_is_that_of_all(tmp_path: Path) -> None:
    steps: list[int] = []
    outcome = launch(tmp_path, partial(ends, Status.COMPLETE), lambda step, metrics: steps.append(step))
    assert (outcome.status, outcome.cause) == (Status.COMPLETE, "rank 0")
    assert outcome.measurements == {"memory/peak_bytes": 3}
    assert steps == [0]


def waits(place: Place) -> None:
    time.sleep(600)


def test_a_rank_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    started: list[Any] = []
    Launch(waits, 1, 1, RunFolder(tmp_path))._start(started, tmp_path / "meeting")
    started[0].link.close()
    started[0].process.join(60)
    assert started[0].process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("what_the_first_does", ["fails", "waits"])
def test_the_rank_that_failed_first_is_the_cause_and_no_other_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what_the_first_does: str
) -> None:
    if what_the_first_does == "waits":
        monkeypatch.setattr(parallel, "GRACE_SECONDS", 0.1)
    outcome = launch(tmp_path, partial(second_is_out_of_memory, what_the_first_does))
    assert (outcome.status, outcome.cause) == (Status.OOM, "rank 1")
