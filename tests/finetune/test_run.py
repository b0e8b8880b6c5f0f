import math

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from lowrung.finetune.callbacks import Diverged
from tests import training

# Recorded with torch 2.13.0, transformers 5.23.0, trl 1.16.0 and peft 0.21.2 on x86-64 with one thread; other
# processors round otherwise in the sixth digit.
GOLDEN_TRAIN = {1: 5.68564, 2: 5.1378, 3: 5.06097, 4: 4.77872, 5: 4.69232, 6: 4.45679}
GOLDEN_EVAL = {0: 5.68136, 3: 4.70289, 6: 4.49773}


def curve(reports, name):
    return {step: metrics[name] for step, metrics in reports if name in metrics}


def weights(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_golden_loss_curve(trained):
    _, reports = trained
    assert curve(reports, "train/loss") == pytest.approx(GOLDEN_TRAIN, rel=1e-4)
    assert curve(reports, "eval/loss") == pytest.approx(GOLDEN_EVAL, rel=1e-4)


def test_it_evaluates_before_during_and_after(trained):
    result, reports = trained
    losses = curve(reports, "eval/loss")
    assert list(losses) == [0, 3, 6]
    assert (result.metrics["base/eval_loss"], result.metrics["eval/loss"]) == (losses[0], losses[6])
    assert result.metrics["eval/perplexity"] == pytest.approx(math.exp(losses[6]))
    assert losses[6] < losses[0] - 0.3


def test_the_last_step_is_evaluated_even_off_the_beat(tmp_path):
    result, reports = training.fine_tune(tmp_path, max_steps=4)
    assert list(curve(reports, "eval/loss")) == [0, 3, 4]
    assert result.metrics["eval/loss"] == curve(reports, "eval/loss")[4]


def test_every_step_is_reported(trained):
    _, reports = trained
    for name in ("train/loss", "train/grad_norm", "train/learning_rate", "train/tokens_per_second"):
        assert list(curve(reports, name)) == [1, 2, 3, 4, 5, 6]


def test_repeats_are_equal_to_the_bit(tmp_path):
    runs = [training.fine_tune(tmp_path / name, lora={"dropout": 0.1}, max_steps=3)[0] for name in ("one", "two")]
    assert runs[0].metrics == runs[1].metrics
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_seed_matters(tmp_path, trained):
    other, _ = training.fine_tune(tmp_path, seed=1)
    assert other.metrics["base/eval_loss"] == trained[0].metrics["base/eval_loss"]
    assert other.metrics["eval/loss"] != trained[0].metrics["eval/loss"]


def test_the_eval_loss_is_the_same_for_eval_batches_of_1_and_16(tmp_path):
    one, sixteen = (
        training.fine_tune(tmp_path / str(size), name="docstrings", eval_batch_size=size, max_steps=2)[0]
        for size in (1, 16)
    )
    assert one.metrics["eval/loss"] == pytest.approx(sixteen.metrics["eval/loss"], rel=1e-6)
    assert one.metrics["eval/token_accuracy"] == sixteen.metrics["eval/token_accuracy"]


@pytest.mark.slow
def test_accumulated_small_batches_equal_a_large_one(tmp_path):
    small, large = (
        training.fine_tune(tmp_path / str(size), batch_size=size, gradient_accumulation_steps=8 // size, max_steps=3)[0]
        for size in (2, 8)
    )
    assert small.metrics["eval/loss"] == pytest.approx(large.metrics["eval/loss"], rel=1e-5)


def test_the_saved_adapter_is_small_and_loads_by_itself(tmp_path):
    result, _ = training.fine_tune(tmp_path, max_steps=1)
    assert result.metrics["adapter/bytes"] == (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert result.metrics["params/trainable"] * 4 < result.metrics["adapter/bytes"] < 50_000
    model = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    assert model.peft_config["default"].r == 4


def test_a_rate_without_bounds_diverges(tmp_path):
    with pytest.raises(Diverged, match=r"is not finite at step \d+\. A lower train\.learning_rate"):
        training.fine_tune(tmp_path, learning_rate=1e20)


def test_exact_match_is_measured_where_there_is_one_answer(tmp_path, trained):
    assert trained[0].metrics["eval/exact_match"] == 0.0  # six steps teach no arithmetic
    assert "eval/exact_match" not in training.fine_tune(tmp_path, name="docstrings", max_steps=1)[0].metrics
