"""What earlier runs measured: which of them count, and what cannot do harm."""

import dataclasses
import json
import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lowrung.config import machine
from lowrung.config.schema import LoraConf, ModelConf, TrainConf, VerifyConf
from lowrung.costs import facts, history, prediction
from lowrung.costs.facts import Planned
from lowrung.costs.sizes import BaseSizes, RowSizes, TrainedSizes
from lowrung.costs.terms import Asked
from lowrung.store import layout
from lowrung.store.outcome import Status
from tests.predicted import FLOPS, outcome


def trained(**changes) -> TrainedSizes:
    zeros = {field.name: 0 for field in dataclasses.fields(TrainedSizes) if field.name != "guesses"}
    own = {"trainable": 10**6, "trainable_bytes": 4 * 10**6, "flops_per_token": 2e8, "saved_per_token": 1e6}
    return TrainedSizes(**{**zeros, **own, **changes})


def asked(**changes) -> Asked:
    rows = RowSizes(64, tuple(range(50, 151)), tuple([20] * 101))
    given = Asked(
        base=BaseSizes(parameters=10**8, quantizable=8 * 10**7, largest=10**6, width=576, vocabulary=49152),
        trained=trained(),
        rows=rows,
        held_out=dataclasses.replace(rows, rows=8),
        model=ModelConf(path="model"),
        lora=LoraConf(r=8, alpha=32.0),
        train=TrainConf(batch_size=4, eval_batch_size=4, eval_steps=5, max_steps=10),
        verify=VerifyConf(prompts=4, new_tokens=8, merge_dtype="float16"),
        steps=10,
        device="cpu",
        dtype="float32",
        threads=1,
    )
    return dataclasses.replace(given, **changes)


def speed(run: Asked, store: Path, *machines: Mapping[str, Any]) -> prediction.Speed:
    """By the runs of these machines; of this one alone where none is given."""
    return history.speed(run, store, FLOPS, machines or [machine.described()])


def predicted(run: Asked, store: Path) -> prediction.Prediction:
    return prediction.predict(run, speed(run, store))


def test_without_earlier_runs_the_machines_products_count(tmp_path):
    plan = predicted(asked(), tmp_path)
    assert plan.source == "how fast this machine multiplies matrices"
    assert plan.memory_bytes == plan.memory.peak
    assert {*plan.numbers} == {*prediction.PLANNED}  # by which constraints know what is planned


def test_a_measured_run_corrects_the_next(tmp_path):
    run = asked()
    before = predicted(run, tmp_path)
    history.note(run, outcome(run, slower=2, held=1.2), tmp_path)
    after = predicted(run, tmp_path)
    beside = before.work.step_seconds + before.work.evaluation_seconds + before.work.gate_seconds
    assert after.seconds == pytest.approx(2 * before.seconds - beside)
    assert after.memory_bytes == pytest.approx(1.2 * before.memory_bytes)
    assert after.source == "1 earlier run of these settings here"


def test_the_nearest_runs_count_first(tmp_path):
    run, other = asked(), asked(base=BaseSizes(10**7, 8 * 10**6, 10**5, 128, 1000))
    history.note(other, outcome(other, slower=5, held=3), tmp_path)
    far = predicted(run, tmp_path)
    assert far.source == "1 earlier run of other settings or models here"
    assert far.memory_bytes == far.memory.peak  # another model's libraries say nothing of this one's weights
    longer = asked(train=dataclasses.replace(run.train, batch_size=8))
    history.note(longer, outcome(longer, slower=3), tmp_path)
    near = predicted(run, tmp_path)
    assert near.source == "1 earlier run of this model here"
    assert near.seconds < far.seconds


def test_a_run_beside_a_busy_neighbour_does_not_move_the_median(tmp_path):
    run = asked()
    for slower in (1, 1, 1, 20):
        history.note(run, outcome(run, slower=slower), tmp_path)
    assert predicted(run, tmp_path).seconds == pytest.approx(predicted(run, tmp_path / "none").seconds)


def test_what_is_computed_of_the_base_once_does_not_count_as_start(tmp_path):
    first, second = asked(), asked(is_base_kept=True)
    history.note(first, outcome(first), tmp_path)
    plan = predicted(second, tmp_path)
    assert plan.work.base == 0
    assert plan.seconds == pytest.approx(predicted(second, tmp_path / "none").seconds)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": Status.PRUNED},
        {"status": Status.OOM},
        {"measurements": {"time/total_seconds": 3.0}},
        {"facts": {}},
        {"facts": {"plan": {"memory": {}, "work": {}}}},
        {"facts": {"plan": None}},
    ],
    ids=["pruned", "oom", "numbers-lack", "no-plan", "empty-plan", "plan-of-nothing"],
)
def test_a_run_that_did_not_do_what_was_predicted_is_not_noted(tmp_path, changes):
    run = asked()
    history.note(run, outcome(run, **changes), tmp_path)
    assert not layout.measured_costs(tmp_path).exists()


def test_a_run_that_went_on_is_not_noted(tmp_path):
    run = asked()
    made = outcome(run)
    history.note(run, dataclasses.replace(made, facts={**made.facts, "is_resumed": True}), tmp_path)
    assert not layout.measured_costs(tmp_path).exists()


def test_a_gate_on_another_device_says_nothing_of_this_ones_speed(tmp_path):
    run = asked()
    made = outcome(run, slower=3)
    history.note(run, dataclasses.replace(made, facts={**made.facts, "verified_on": "cuda"}), tmp_path)
    assert speed(run, tmp_path).verifying == pytest.approx(FLOPS / 3)  # a step's


HARMLESS = {
    "torn": lambda line: line[: len(line) // 2],
    "changed": lambda line: line.replace('"memory": ', '"memory": 9'),
    "of-other-formulas": lambda line: json.dumps({**json.loads(line), "of": "another"}),
    "not-json": lambda line: "{" * 5000,
    "another-value": lambda line: "17",
    "nothing": lambda line: "",
    "bytes": lambda line: "\x00\x01",
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_lines_that_are_not_as_they_were_written_do_no_harm(tmp_path, kind):
    run = asked()
    history.note(run, outcome(run, slower=9), tmp_path)
    path = layout.measured_costs(tmp_path)
    path.write_text(HARMLESS[kind](path.read_text().strip()))
    assert predicted(run, tmp_path).source == history.FORMULAS
    history.note(run, outcome(run, slower=2), tmp_path)  # behind a line without its end
    assert predicted(run, tmp_path).source == "1 earlier run of these settings here"
    assert speed(run, tmp_path).flops_per_second == pytest.approx(FLOPS / 2)


@pytest.mark.parametrize("of", ["machine.described", "source.digest"])
def test_other_machines_and_versions_do_not_count(tmp_path, monkeypatch, of):
    run = asked()
    history.note(run, outcome(run, slower=9), tmp_path)
    monkeypatch.setattr(f"lowrung.costs.history.{of}", lambda: "another")
    history._version.cache_clear()
    assert predicted(run, tmp_path).source == history.FORMULAS
    history._version.cache_clear()


def test_the_first_machine_counts_that_has_measured_a_run(tmp_path):
    run, node, here = asked(), {"processor": "a node's"}, machine.described()
    made = outcome(run, slower=9)
    history.note(run, dataclasses.replace(made, facts={**made.facts, "machine": node}), tmp_path)
    assert predicted(run, tmp_path).source == history.FORMULAS
    assert speed(run, tmp_path, here, {"processor": "another"}).source == history.FORMULAS
    found = speed(run, tmp_path, here, node)
    assert found.source == "1 earlier run of these settings on a node's"
    assert found.flops_per_second == pytest.approx(FLOPS / 9)
    history.note(run, outcome(run, slower=2), tmp_path)
    assert speed(run, tmp_path, here, node).source == "1 earlier run of these settings here"
    assert speed(run, tmp_path, node, here) == found
    assert speed(run, tmp_path, node) == found


def test_the_memory_of_all_ranks_is_measured_and_recorded(tmp_path):
    run = asked(train=TrainConf(batch_size=4, eval_batch_size=4, eval_steps=5, max_steps=10, parallel="ddp", ranks=2))
    history.note(run, outcome(run, held=2 * 1.5), tmp_path)
    plan = predicted(run, tmp_path)
    assert plan.memory_bytes == pytest.approx(1.5 * plan.memory.peak)
    assert Planned.of(plan).numbers[facts.MEMORY] == pytest.approx(2 * plan.memory_bytes, abs=1)


def test_a_store_that_cannot_be_written_does_no_harm(tmp_path):
    run = asked()
    (tmp_path / "file").write_text("")
    history.note(run, outcome(run), tmp_path / "file")
    assert predicted(run, tmp_path / "file").source == history.FORMULAS


@pytest.mark.slow
def test_several_writers_lose_nothing(tmp_path):
    run = asked()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(run, tmp_path)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = [line for line in layout.measured_costs(tmp_path).read_text().splitlines() if line]
    assert len(lines) == 40
    assert all(json.loads(line)["memory"] == pytest.approx(1) for line in lines)


def _write(run: Asked, store: Path) -> None:
    for _ in range(10):
        history.note(run, outcome(run), store)
