"""What the fields of ``train.sft`` do to training."""

import math
from typing import Any, ClassVar

import pytest
import torch
from bitsandbytes.optim.adamw import AdamW as AdamWBits

from lowrung.config.schema import LoraConf, ModelConf
from lowrung.finetune.lora import adapter
from lowrung.finetune.models import pretrained
from lowrung.finetune.training.trainer import make_trainer
from tests import training

BASE = ModelConf("embedded:tiny")


@pytest.fixture(scope="module")
def data():
    return training.prepared(BASE, train_size=16, eval_size=4)


@pytest.fixture
def prepare(data, tmp_path):
    """Makes a trainer with its optimiser and its schedule, of 20 steps at a rate of 1e-2."""

    def prepare(sft, lora=None, **changed):
        conf = LoraConf(**{**training.LORA, **(lora or {})})
        model = adapter.attach(pretrained.load_base(BASE, pretrained.device()), conf, data.train, added_rows=())
        trainer, _, _ = make_trainer(
            model,
            pretrained.tokenizer_of(BASE),
            training.recipe(tmp_path, data, conf, sft=sft, **{"max_steps": 20, **changed}),
            on_report=lambda step, metrics: None,
        )
        trainer.create_optimizer_and_scheduler(20)
        return trainer

    return prepare


def rates(trainer):
    found = []
    for _ in range(20):
        found.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return found


def test_adam_takes_its_constants(prepare):
    group = prepare({"adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-6}).optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["fused"]) == ((0.8, 0.99), 1e-6, True)


def test_the_optimiser_and_its_arguments(prepare):
    optimizer = prepare({"optim": "sgd", "optim_args": "momentum=0.9"}).optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_moments_are_held_in_8_bits(prepare, optim):
    trainer = prepare({"optim": optim, "adam_beta2": 0.99}, {"r": 64})  # 64 x 64 numbers: fewer stay in 32 bits
    optimizer = trainer.optimizer
    assert isinstance(optimizer, AdamWBits)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert optimizer.is_paged == (optim == "paged_adamw_8bit")
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = {state["state1"].dtype for state in optimizer.state.values() if state["state1"].numel() >= 4096}
    assert held == {torch.uint8}


class TestLoraPlus:
    """It has an optimiser of its own making, with a rate for B."""

    LORA: ClassVar = {"lora_plus_ratio": 4.0}

    def test_it_is_the_optimiser_that_was_asked_for(self, prepare):
        optimizer = prepare({"optim": "sgd", "optim_args": "momentum=0.5"}, self.LORA).optimizer
        assert isinstance(optimizer, torch.optim.SGD)
        assert {group["momentum"] for group in optimizer.param_groups} == {0.5}
        assert [group["lr"] for group in optimizer.param_groups if group["params"]] == [1e-2, 4e-2]

    def test_its_constants_are_those_that_were_asked_for(self, prepare):
        plain, changed = (prepare(sft, self.LORA).optimizer for sft in ({}, {"adam_beta2": 0.9}))
        assert type(plain) is type(changed) is torch.optim.AdamW
        assert plain.param_groups[0]["betas"] == (0.9, 0.999)
        assert changed.param_groups[0]["betas"] == (0.9, 0.9)
        assert not plain.param_groups[0]["fused"]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
class TestSchedule:
    def test_warm_up_in_steps_takes_the_part_of_the_ratio(self, prepare):
        found = rates(prepare({"warmup_steps": 4}, warmup_ratio=0.5))
        assert found[:5] == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.01])
        assert found[5] < 0.01

    def test_cosine_with_a_minimum(self, prepare):
        sft = {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
        found = rates(prepare(sft, lr_scheduler_type="cosine_with_min_lr"))
        assert found[10] == pytest.approx(0.01 * (0.1 + 0.9 * 0.5))
        assert found[19] == pytest.approx(0.01 * (0.1 + 0.9 * (1 + math.cos(math.pi * 19 / 20)) / 2))

    def test_a_plateau_at_the_end(self, prepare):
        found = rates(prepare({"lr_scheduler_kwargs": {"num_decay_steps": 5}}, lr_scheduler_type="warmup_stable_decay"))
        assert found[:15] == [0.01] * 15
        assert found[15] > found[17] > found[19]


def test_rows_are_padded_to_a_multiple(prepare):
    trainers = prepare({}), prepare({"pad_to_multiple_of": 64})
    plain, padded = (next(iter(trainer.get_train_dataloader()))["input_ids"].shape[1] for trainer in trainers)
    assert plain % 64
    assert padded == math.ceil(plain / 64) * 64


def test_the_order_of_the_rows(prepare, data):
    def first(sft):
        return next(iter(prepare(sft).get_train_dataloader()))["input_ids"][:, :40].tolist()

    orders = [first(sft) for sft in ({}, {"data_seed": 7}, {"train_sampling_strategy": "sequential"})]
    assert orders[0] != orders[1]
    width = len(orders[2][0])
    assert [row[: len(tokens)] for row, tokens in zip(orders[2], data.train["input_ids"], strict=False)] == [
        tokens[:width] for tokens in data.train["input_ids"][:4]
    ]


def losses(reports, name):
    return {step: metrics[name] for step, metrics in reports if name in metrics}


@pytest.mark.slow
def test_noise_on_embeddings_is_in_training_alone(tmp_path):
    """At a rate that changes nothing: the loss of training has the noise, evaluations have not."""
    still: dict[str, Any] = {"learning_rate": 1e-12, "max_steps": 2, "eval_steps": 1, "batch_size": 4}
    plain, noisy = (
        training.fine_tune(tmp_path / str(alpha), sft={"neftune_noise_alpha": alpha}, **still)[1] for alpha in (0, 5)
    )
    evaluations = losses(noisy, "eval/loss")
    assert list(evaluations) == [0, 1, 2]
    assert list(evaluations.values()) == pytest.approx([evaluations[0]] * 3, rel=1e-6)
    assert losses(plain, "eval/loss")[0] == evaluations[0]
    assert abs(losses(plain, "train/loss")[1] - losses(noisy, "train/loss")[1]) > 1e-3


@pytest.mark.slow
def test_a_rate_follows_the_eval_loss(tmp_path):
    sft = {"lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0, "factor": 0.1}}
    _, reports = training.fine_tune(tmp_path, sft=sft, lr_scheduler_type="reduce_lr_on_plateau", eval_steps=1)
    assert list(losses(reports, "train/learning_rate").values())[:3] == pytest.approx([1e-2, 1e-3, 1e-4])


@pytest.mark.slow
def test_noise_is_the_same_where_activations_are_computed_twice(tmp_path):
    recipe: dict[str, Any] = {"sft": {"neftune_noise_alpha": 5, "optim": "lion_8bit"}, "lora": {"r": 64}}
    one, two = (
        training.fine_tune(tmp_path / str(is_on), gradient_checkpointing=is_on, **recipe)[0] for is_on in (False, True)
    )
    assert one.metrics["eval/loss"] == pytest.approx(two.metrics["eval/loss"], rel=1e-6)
    assert one.metrics["eval/loss"] < one.metrics["base/eval_loss"]
