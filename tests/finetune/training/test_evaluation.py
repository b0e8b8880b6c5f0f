from typing import Any

import pytest
import torch

from lowrung.finetune.gate.difference import mean_loss
from lowrung.finetune.models import pretrained
from lowrung.finetune.training import evaluation
from lowrung.finetune.training.callbacks import Stopped
from tests import training

FEW = {"train_size": 16, "eval_size": 8}


@pytest.fixture
def computed(monkeypatch):
    """How often the base was evaluated."""
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return scores(*arguments)

    scores = evaluation._scores
    monkeypatch.setattr(evaluation, "_scores", counted)
    return calls


def base_loss(folder, **changed):
    return run(folder, **changed).metrics["base/eval_loss"]


def run(folder, **changed):
    trained, reports = training.fine_tune(folder, source=FEW, max_steps=1, **changed)
    step, first = reports[0]
    assert step == 0
    assert first["eval/loss"] == trained.metrics["base/eval_loss"]
    return trained


def test_the_base_is_evaluated_once_whatever_is_trained_from_it(tmp_path, computed):
    losses = [base_loss(tmp_path, lora=lora) for lora in ({"r": 2}, {"r": 8, "init": "pissa"})]
    assert len(computed) == 1
    rows = list(training.prepared(training.TINY, **FEW).eval)
    own = mean_loss(pretrained.load_base(training.TINY, torch.device("cpu")), rows)
    assert losses == [losses[0]] * 2 == pytest.approx([own] * 2, rel=1e-6)


@pytest.mark.slow
def test_what_was_damaged_or_is_of_other_batches_is_computed(tmp_path, computed):
    found = run(tmp_path).metrics
    assert run(tmp_path).metrics == found  # to read what is kept draws no other random numbers than to compute it
    loss = found["base/eval_loss"]
    (kept,) = tmp_path.glob("base/*/held_out-8.arrays")
    kept.write_bytes(kept.read_bytes()[:-100])
    assert base_loss(tmp_path) == loss
    assert len(computed) == 2
    assert base_loss(tmp_path, eval_batch_size=3) == pytest.approx(loss)
    assert len(computed) == 3


@pytest.mark.slow
def test_a_run_that_goes_on_from_a_checkpoint_needs_no_base(tmp_path, computed):
    seen: list[int] = []
    settings: dict[str, Any] = {"source": FEW, "max_steps": 4, "save_steps": 2}
    with pytest.raises(Stopped):
        training.fine_tune(tmp_path, **settings, watch=seen.append, should_stop=lambda: seen[-1] >= 1)
    trained, reports = training.fine_tune(tmp_path, **settings)
    assert len(computed) == 1
    assert trained.metrics["base/eval_loss"] == reports[0][1]["eval/loss"]
