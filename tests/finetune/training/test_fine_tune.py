import math
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lowrung.config.schema import ModelConf
from lowrung.finetune.gate.difference import completion_logits
from lowrung.finetune.training import checkpoints
from lowrung.finetune.training.callbacks import Diverged, Stopped
from lowrung.store.layout import CHECKPOINT_MARK
from tests import sources, training

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


def assert_logits_are_those_of_the_scores(result):
    """Those of the first rows that were asked for, and of the weights that were saved."""
    assert len(result.logits) == 3
    for number, logits in enumerate(result.logits):
        own, labels = completion_logits(result.model, [result.held_out[number]])
        torch.testing.assert_close(logits, own, rtol=1e-4, atol=1e-4)
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        assert nll == pytest.approx(result.scores.nll[number], rel=1e-5)


def test_the_last_evaluation_leaves_the_first_rows_logits(trained):
    assert_logits_are_those_of_the_scores(trained[0])


@pytest.mark.slow
def test_the_last_step_is_evaluated_even_off_the_beat(tmp_path):
    result, reports = training.fine_tune(tmp_path, max_steps=4)
    assert_logits_are_those_of_the_scores(result)
    assert list(curve(reports, "eval/loss")) == [0, 3, 4]
    assert result.metrics["eval/loss"] == curve(reports, "eval/loss")[4]


def test_every_step_is_reported(trained):
    _, reports = trained
    for name in ("train/loss", "train/grad_norm", "train/learning_rate", "train/tokens_per_second"):
        assert list(curve(reports, name)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_repeats_are_equal_to_the_bit(tmp_path):
    runs = [training.fine_tune(tmp_path / name, lora={"dropout": 0.1}, max_steps=3)[0] for name in ("one", "two")]
    assert runs[0].metrics == runs[1].metrics
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def of_another_seed(tmp_path_factory):
    return training.fine_tune(tmp_path_factory.mktemp("of another seed"), seed=1)[0]


def test_the_seed_matters(of_another_seed, trained):
    other = of_another_seed
    assert other.metrics["base/eval_loss"] == trained[0].metrics["base/eval_loss"]
    assert other.metrics["eval/loss"] != trained[0].metrics["eval/loss"]


@pytest.mark.slow
def test_the_eval_loss_is_the_same_for_eval_batches_of_1_and_16(tmp_path):
    one, sixteen = (
        training.fine_tune(tmp_path / str(size), source={"name": "docstrings"}, eval_batch_size=size, max_steps=2)[0]
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


def test_exact_match_is_measured_where_it_is_asked_for(of_another_seed, trained):
    assert trained[0].metrics["eval/exact_match"] == 0.0  # six steps teach no arithmetic
    assert "eval/exact_match" not in of_another_seed.metrics


class TestResume:
    """A run that was stopped goes on from its last checkpoint, to the very result of one that was not."""

    RECIPE: dict[str, Any] = {"max_steps": 6, "eval_steps": 2, "save_steps": None, "batch_size": 4}  # noqa: RUF012

    def interrupted(self, folder, at, **settings):
        """Runs until a step is reported, as Ctrl-C would end it, and then again to the end."""

        class Interrupted(Exception):  # noqa: N818
            pass

        def stop(step):
            if step == at:
                raise Interrupted

        with pytest.raises(Interrupted):
            training.fine_tune(folder, watch=stop, **self.RECIPE, **settings)
        return training.fine_tune(folder, **self.RECIPE, **settings)

    @pytest.mark.parametrize(
        "settings",
        [
            {"lora": {"dropout": 0.1, "init": "pissa", "use_dora": True}},
            pytest.param({"lora": {"dropout": 0.1}}, marks=pytest.mark.slow),
            *[
                pytest.param({"lora": {"init": init, "init_examples": 8}}, marks=pytest.mark.slow)
                for init in ("pissa_niter_2", "eva", "lora_ga", "corda")
            ],
            pytest.param(
                {"base": ModelConf("embedded:tiny", added_tokens=["Write", "<think>"])}, marks=pytest.mark.slow
            ),
            pytest.param(
                {"base": ModelConf("embedded:tiny_gpt2", added_tokens=["Write", "<think>"]), "early_stopping": 2},
                marks=pytest.mark.slow,
            ),
            pytest.param({"is_full": True, "learning_rate": 1e-3}, marks=pytest.mark.slow),
            pytest.param(
                {"is_full": True, "base": ModelConf("embedded:tiny", added_tokens=["Write"])}, marks=pytest.mark.slow
            ),
            pytest.param(
                {"lora": {"dropout": 0.1, "lora_plus_ratio": 4}, "gradient_accumulation_steps": 2},
                marks=pytest.mark.slow,
            ),
            pytest.param(
                {"lora": {"r": 64}, "sft": {"optim": "adamw_8bit", "neftune_noise_alpha": 5, "data_seed": 7}},
                marks=pytest.mark.slow,
            ),
        ],
    )
    def test_the_result_is_equal_to_the_bit(self, tmp_path, settings):
        straight, reports = training.fine_tune(tmp_path / "straight", **self.RECIPE, **settings)
        resumed, again = self.interrupted(tmp_path / "resumed", at=5, **settings)
        assert resumed.metrics == straight.metrics
        assert resumed.scores.nll.tolist() == straight.scores.nll.tolist()
        for name in ("train/loss", "eval/loss", "train/learning_rate"):
            assert curve(again, name) == curve(reports, name)
        one, two = saved(tmp_path / "straight"), saved(tmp_path / "resumed")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)

    @pytest.mark.parametrize(
        "settings",
        [
            {"lr_scheduler_type": "constant"},
            pytest.param({"max_steps": 12, "learning_rate": 3.0, "early_stopping": 2}, marks=pytest.mark.slow),
        ],
    )
    @pytest.mark.slow
    def test_from_its_last_checkpoint_it_takes_no_step_more(self, tmp_path, settings):
        """The run was killed in the gate, say."""
        recipe = {**self.RECIPE, "eval_steps": 1, **settings}
        first, reports = training.fine_tune(tmp_path, **recipe)
        second, again = training.fine_tune(tmp_path, **recipe)
        assert second.metrics == first.metrics
        assert again == reports
        assert_logits_are_those_of_the_scores(second)

    @pytest.mark.slow
    def test_asked_to_stop_it_ends_after_the_step_with_a_checkpoint(self, tmp_path):
        straight, _ = training.fine_tune(tmp_path / "straight", **self.RECIPE)
        steps: list[int] = []
        with pytest.raises(Stopped, match="stopped at step 3"):
            training.fine_tune(
                tmp_path / "stopped", watch=steps.append, should_stop=lambda: len(steps) >= 4, **self.RECIPE
            )
        checkpoint = checkpoints.latest(tmp_path / "stopped" / "checkpoints")
        assert checkpoint is not None
        assert checkpoint.step == 3
        resumed, again = training.fine_tune(tmp_path / "stopped", **self.RECIPE)
        assert resumed.metrics == straight.metrics
        assert list(curve(again, "train/loss")) == [1, 2, 3, 4, 5, 6]

    @pytest.mark.filterwarnings("error:Setting `save_embedding_layers`")
    def test_a_checkpoint_holds_the_rows_of_added_tokens_and_no_whole_matrix(self, tmp_path):
        with pytest.raises(ZeroDivisionError):
            training.fine_tune(
                tmp_path,
                base=ModelConf("embedded:tiny", added_tokens=["Write", "<think>"]),
                watch=lambda step: 1 / (3 - step),
                **self.RECIPE,
            )
        tensors = load_file(tmp_path / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
        assert {tuple(tensor.shape) for name, tensor in tensors.items() if "lora_" not in name} == {(2, 64)}

    def test_a_checkpoint_that_is_not_whole_does_not_count(self, tmp_path):
        with pytest.raises(ZeroDivisionError):
            training.fine_tune(tmp_path, watch=lambda step: 1 / (5 - step), **self.RECIPE)
        checkpoint = tmp_path / "checkpoints" / "checkpoint-4"
        (checkpoint / CHECKPOINT_MARK).unlink()  # as if it had been killed before it was done
        assert checkpoints.latest(tmp_path / "checkpoints") is None
        assert not checkpoint.exists()

    @pytest.mark.slow
    def test_as_many_are_kept_as_were_asked_for(self, tmp_path):
        training.fine_tune(tmp_path, save_total_limit=2, **{**self.RECIPE, "eval_steps": 1})
        assert sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")) == [
            "checkpoint-5",
            "checkpoint-6",
        ]

    @pytest.mark.slow
    def test_no_checkpoint_is_written_where_none_is_wanted(self, tmp_path):
        training.fine_tune(tmp_path, **{**self.RECIPE, "save_steps": 0})
        assert not list(tmp_path.glob("checkpoints/checkpoint-*"))


def saved(folder):
    """The tensors of a saved adapter, or of a whole model."""
    return {
        name: tensor for file in (folder / "adapter").glob("*.safetensors") for name, tensor in load_file(file).items()
    }


@pytest.mark.slow
def test_epochs_are_passes_over_the_examples(tmp_path):
    _, reports = training.fine_tune(tmp_path, max_steps=None, epochs=0.5, eval_steps=4, batch_size=8)
    assert list(curve(reports, "train/loss")) == [1, 2, 3, 4]  # 64 examples are 8 steps


@pytest.mark.slow
def test_early_stopping_takes_the_best_evaluations_weights(tmp_path):
    """What is trained on contradicts what is held out, so each step is worse than the one before on any processor."""
    trained_on, held_out = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    sources.write_rows(trained_on, [{"prompt": f"{n}?", "completion": "a" * 24} for n in range(16)])
    sources.write_rows(held_out, [{"prompt": f"{n}?", "completion": "z" * 24} for n in range(16, 24)])
    files = {"name": "file", "path": str(trained_on), "eval_path": str(held_out), "train_size": None, "eval_size": None}
    settings: dict[str, Any] = {"max_steps": 12, "eval_steps": 1, "early_stopping": 2, "save_steps": None}
    result, reports = training.fine_tune(tmp_path, source=files, **settings)
    losses = curve(reports, "eval/loss")
    assert list(losses) == [0, 1, 2, 3]
    assert losses[1] < losses[2] < losses[3]
    assert result.metrics["eval/loss"] == losses[1]
    assert_logits_are_those_of_the_scores(result)


@pytest.mark.slow
def test_gradient_checkpointing_changes_memory_alone(tmp_path, trained):
    result, _ = training.fine_tune(tmp_path, gradient_checkpointing=True)
    assert result.metrics["eval/loss"] == pytest.approx(trained[0].metrics["eval/loss"], rel=1e-5)


@pytest.mark.slow
def test_packed_rows_are_fewer_and_fuller(tmp_path):
    settings: dict[str, Any] = {"max_steps": None, "epochs": 1, "batch_size": 2, "eval_steps": 100}
    _, plain = training.fine_tune(tmp_path / "plain", **settings)
    result, packed = training.fine_tune(tmp_path / "packed", packing=True, **settings)
    assert max(curve(packed, "train/loss")) < max(curve(plain, "train/loss")) / 2
    # Without AVX2 the two differ by 6e-8 of the loss: position numbers take another way through attention.
    assert result.metrics["base/eval_loss"] == pytest.approx(curve(plain, "eval/loss")[0], rel=1e-6)
    assert result.metrics["eval/loss"] < result.metrics["base/eval_loss"]


def test_with_lora_plus_b_learns_so_many_times_as_fast(tmp_path):
    """AdamW's first step is as long as the rate, whatever the gradient."""
    training.fine_tune(tmp_path, max_steps=1, learning_rate=1e-4, lora={"lora_plus_ratio": 16})
    largest = max(tensor.abs().max().item() for name, tensor in weights(tmp_path).items() if "lora_B" in name)
    assert largest == pytest.approx(16e-4, rel=1e-3)


@pytest.mark.slow
def test_full_fine_tuning_trains_every_weight_and_saves_a_model(tmp_path):
    result, _ = training.fine_tune(tmp_path, is_full=True, max_steps=2, learning_rate=1e-3)
    assert result.metrics["params/trainable"] == result.metrics["params/total"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert sum(parameter.numel() for parameter in model.parameters()) == result.metrics["params/total"]
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()
