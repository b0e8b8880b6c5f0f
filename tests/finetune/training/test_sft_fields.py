"""What ``train.sft`` does with every field of TRL's SFTConfig."""

import dataclasses

import pytest
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from lowrung.config.schema import TrainConf
from lowrung.finetune.training import sft_fields, sft_trial

FIELDS = {field.name for field in dataclasses.fields(SFTConfig)}

RECIPE = TrainConf(learning_rate=1e-3, max_steps=20, batch_size=8, eval_batch_size=8, eval_steps=10)


def problems(sft=None, **changed):
    return sft_trial.problems([dataclasses.replace(RECIPE, sft=sft or {}, **changed)])


def test_every_field_is_passed_on_or_refused_with_a_reason():
    """One that a new TRL brings is refused until it is known what the trainer does with it: decide, and list it."""
    refused = sft_fields.refused()
    assert refused.keys() | sft_fields.PASSED == FIELDS
    assert refused.keys() & sft_fields.PASSED == set()
    assert [name for name, reason in refused.items() if "not know yet" in reason] == []


def test_a_field_that_nobody_has_decided_on_is_refused(monkeypatch):
    monkeypatch.setattr(sft_fields, "PASSED", sft_fields.PASSED - {"optim"})
    (problem,) = problems({"optim": "sgd"})
    assert "train.sft.optim must be left out: lowrung does not know yet whether its trainer heeds it." in problem


@pytest.mark.parametrize("name", sorted(sft_fields.refused()))
def test_a_refused_field_is_named(name):
    (problem,) = problems({name: None})
    assert problem.startswith(f"train.sft.{name} must be left out: ")


def test_all_problems_come_at_once():
    found = problems({"output_dir": "x", "label_smoothing_factor": 0.1, "adam_beta3": 1, "adam_beta2": "high"})
    assert found == [
        "train.sft.output_dir must be left out: store sets it.",
        "train.sft.label_smoothing_factor must be left out: lowrung's own loss, over labelled tokens alone, does not"
        " read it.",
        found[2],
        "train.sft.adam_beta2 must be a number, but is 'high'.",
    ]
    assert found[2].startswith("train.sft.adam_beta3 is not a field of SFTConfig (trl ")
    assert found[2].endswith("Did you mean adam_beta2?")


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("optim", [name.value for name in OptimizerNames])
def test_every_optimiser_works_or_is_refused(optim):
    found = problems({"optim": optim})
    assert bool(found) == (optim not in sft_fields.CHOICES["optim"])
    assert all(problem.startswith("train.sft.optim must be one of") for problem in found)


@pytest.mark.parametrize(
    ("sft", "changed", "said"),
    [
        ({"adam_beta2": 1.5}, {}, "train.sft must be what the optimiser adamw_torch_fused takes, but it says: Invalid"),
        ({"optim": "adamw_8bits"}, {}, "Did you mean adamw_8bit?"),
        ({"optim": "sgd", "adam_beta2": 0.9}, {}, "train.sft.adam_beta2 must be left out: the optimiser sgd does not"),
        ({"optim": "lion_8bit", "adam_epsilon": 1e-6}, {}, "train.sft.adam_epsilon must be left out"),
        (
            {"optim": "sgd", "optim_args": "momentm=0.9"},
            {},
            "sgd reads, but it does not read 'momentm=0.9'.",
        ),
        ({"optim": "sgd", "optim_args": "momentum"}, {}, "train.sft.optim_args must be like 'momentum=0.9,"),
        ({"optim": "rmsprop_bnb", "optim_args": "alpha=0.9"}, {}, "train.sft must be what the optimiser rmsprop_bnb"),
        ({"warmup_steps": -1}, {}, "train.sft must be what SFTConfig takes, but it says: Got warmup_steps = -1"),
        ({"warmup_steps": 5}, {"lr_scheduler_type": "constant"}, "train.sft.warmup_steps must be left out"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, {"lr_scheduler_type": "constant"}, "constant does not read it"),
        ({"lr_scheduler_kwargs": {"min_lrr": 1e-5}}, {"lr_scheduler_type": "cosine_with_min_lr"}, "'min_lrr'"),
        ({}, {"lr_scheduler_type": "cosine_with_min_lr"}, "One of min_lr or min_lr_rate should be set"),
        ({"neftune_noise_alpha": -1}, {}, "train.sft.neftune_noise_alpha must be at least 0 and finite, but is -1."),
        ({"pad_to_multiple_of": 0}, {}, "train.sft.pad_to_multiple_of must be at least 1, null or auto, but is 0."),
        ({"torch_empty_cache_steps": 0}, {}, "must be an integer bigger than 0, got 0."),
        ({"train_sampling_strategy": "group_by_length"}, {}, "train.sft.train_sampling_strategy must be one of random"),
    ],
)
def test_a_value_that_cannot_be_used_is_found_before_the_run(sft, changed, said):
    (problem,) = problems(sft, **changed)
    assert said in problem


@pytest.mark.parametrize(
    ("sft", "changed"),
    [
        ({"adam_beta1": 0.0, "adam_beta2": 0.99, "adam_epsilon": 1e-6}, {}),
        ({"optim": "sgd", "optim_args": "momentum=0.9, nesterov=true"}, {}),
        ({"optim": "ademamix", "optim_args": "beta3=0.99"}, {}),
        ({"lr_scheduler_kwargs": {"min_lr_rate": 0.1}}, {"lr_scheduler_type": "cosine_with_min_lr"}),
        ({"lr_scheduler_kwargs": {"num_decay_steps": 5}}, {"lr_scheduler_type": "warmup_stable_decay"}),
        ({"lr_scheduler_kwargs": {"patience": 1}}, {"lr_scheduler_type": "reduce_lr_on_plateau"}),
        ({"lr_scheduler_kwargs": {"power": 2}}, {"lr_scheduler_type": "polynomial"}),
        ({"neftune_noise_alpha": 5, "pad_to_multiple_of": 8, "torch_empty_cache_steps": 4, "data_seed": 1}, {}),
    ],
)
def test_what_can_be_used_is_no_problem(sft, changed):
    assert problems(sft, **changed) == []


def test_an_optimiser_whose_package_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    (problem,) = problems({"optim": "adamw_8bit"})
    assert problem.startswith("train.sft.optim=adamw_8bit needs a package that is not installed: ")
    assert problem.endswith("pip install 'lowrung[quantization]'.")


def test_what_takes_another_settings_part_is_said():
    train = dataclasses.replace(RECIPE, sft={"warmup_steps": 30}, warmup_ratio=0.1)
    assert sft_trial.notes([train, RECIPE, train]) == [
        "train.sft.warmup_steps=30 takes the part of train.warmup_ratio=0.1",
        "train.sft.warmup_steps=30 is more than train.max_steps=20: the rate only rises",
    ]
