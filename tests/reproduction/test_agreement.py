"""What differs between two runs is found, and by how much; what does not is not."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lowrung.reproduction import agreement, recorded
from lowrung.store import results
from lowrung.store.held_out import HeldOut
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def again(run, tmp_path):
    """A second run with the same results, to be changed."""
    return RunFolder(shutil.copytree(run.path, tmp_path / "again"))


@pytest.fixture
def compared(run, again):
    """Compares them: the differences in words with their sizes, and the notes."""

    def compare():
        outcome = Outcome.read(again.outcome)
        assert outcome
        outcome = dataclasses.replace(outcome, files=results.digests(again))
        found = recorded.read("it", run, trust_remote_code=False)
        parts = agreement.of(found, again, outcome)
        return (
            {difference.what: difference.apart for part in parts for difference in part.differences},
            [note for part in parts for note in part.notes],
        )

    return compare


def change_json(path, change):
    """Edits a file of JSON."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_equal_runs_agree(compared):
    assert compared() == ({}, [])


def test_seconds_and_bytes_of_memory_are_no_results(again, compared):
    change_json(again.outcome, lambda outcome: outcome["measurements"].update({"time/train_seconds": 1e9}))
    lines = again.reports.read_text().replace('"train/tokens_per_second": ', '"train/tokens_per_second": 1')
    again.reports.write_text(lines)
    assert compared() == ({}, [])


def test_the_last_bit_of_a_metric_counts(again, compared):
    loss = json.loads(again.outcome.read_text())["metrics"]["eval/loss"]
    other = float(np.nextafter(loss, 100))
    change_json(again.outcome, lambda outcome: outcome["metrics"].update({"eval/loss": other, "eval/new": 1.0}))
    assert compared() == ({"eval/loss": other - loss, "eval/new": float("inf")}, [])


def test_another_end_is_a_difference(again, compared):
    change_json(again.outcome, lambda outcome: outcome.update(status="diverged", cause="a loss is not finite"))
    assert compared()[0] == {"status": None}


def test_a_curve_says_where_it_leaves(again, compared):
    reports = [json.loads(line) for line in again.reports.read_text().splitlines()]
    for report in reports:
        if report["step"] > 2 and "train/loss" in report["metrics"]:
            report["metrics"]["train/loss"] += report["step"]
    again.reports.write_text("".join(f"{json.dumps(report)}\n" for report in reports[:-1]))
    found, _ = compared()
    assert found["train/loss at 2 of 4 steps, the first 3, the most at 4"] == pytest.approx(4.0)
    assert found["eval/loss at 1 of 3 steps, the first 4, the most at 4"] == float("inf")  # its last report is missing


def test_examples_are_compared_one_by_one(again, compared):
    scores = HeldOut.read(again.held_out)
    nll = scores.nll.copy()
    nll[[1, 5]] += [0.5, 0.25]
    dataclasses.replace(scores, nll=nll, data="others").write(again.held_out)
    found, _ = compared()
    assert found == {"nll of 2 of 8 examples, the most of example 1": 0.5, "held-out rows as tokens": None}


def test_weights_are_compared_by_value(again, compared):
    file = again.adapter / WEIGHTS
    tensors = load_file(file)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[0] += 0.125
    save_file(tensors, file, {"format": "pt"})
    ((what, apart),) = compared()[0].items()
    assert what == f"adapter/{WEIGHTS}: 1 of {len(tensors)} tensors, the most in {name}"
    assert apart == pytest.approx(0.125)


@pytest.mark.parametrize("edit", ["missing", "shape", "nan"])
def test_weights_that_cannot_be_subtracted_are_infinitely_apart(again, compared, edit):
    file = again.adapter / WEIGHTS
    tensors = load_file(file)
    name = sorted(tensors)[0]
    if edit == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(1) if edit == "shape" else tensors[name] * float("nan")
    save_file(tensors, file)
    ((_, apart),) = compared()[0].items()
    assert apart == float("inf")


def test_the_same_values_in_other_bytes_agree(again, compared):
    save_file(load_file(again.adapter / WEIGHTS), again.adapter / WEIGHTS, {"format": "pt", "by": "another"})
    config = again.adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text())))
    found, notes = compared()
    assert found == {}
    assert notes == [
        f"adapter/{name} holds the same values in other bytes" for name in ("adapter_config.json", WEIGHTS)
    ]


def test_an_adapter_that_was_edited_since_is_told_from_one_that_came_out_otherwise(run, compared):
    change_json(run.adapter / "adapter_config.json", lambda config: config.update(lora_alpha=1.0))
    found, notes = compared()
    assert found == {"adapter/adapter_config.json": None}
    assert "was changed since the recorded run ended: it is not what that run left, which the new run made" in notes[0]


def test_damaged_and_deleted_files_are_said(run, compared):
    (run.adapter / WEIGHTS).write_bytes(b"\xff" * 40)
    (run.adapter / "adapter_config.json").unlink()
    run.held_out.unlink()
    run.reports.unlink()
    found, notes = compared()
    assert list(found) == [f"adapter/{WEIGHTS}"]
    gone = [note for note in notes if "gone" in note or "no reports.jsonl" in note]
    assert len(gone) == 4  # the scores once by example and once by digest
