"""What is counted without weights is what a model of real numbers has, computes and keeps."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, GPT2Config

from lowrung.config.schema import LoraConf, ModelConf, TrainConf
from lowrung.costs.sizes import rank_of
from lowrung.finetune import passes, sizes
from lowrung.finetune.lora import adapter, injection, products
from lowrung.finetune.lora.parameters import count_parameters
from lowrung.finetune.models import attention, head, pretrained
from tests import architectures, training

TRAIN = TrainConf(**training.TRAIN)
CPU = torch.device("cpu")
TINY = ModelConf("embedded:tiny")
TOKENS = 48  # no length that passes are counted over


def of(base, lora, **train):
    ((ranks),) = sizes.of_trained(base, [lora], [dataclasses.replace(TRAIN, **train)], CPU.type).values()
    return ranks[rank_of(lora)]


def lora(**changed):
    return LoraConf(**{"r": 4, "alpha": 8.0, **changed})


def trained(base, lora, *, checkpointing=False):
    """The model as a run trains it."""
    model: Any = pretrained.load_base(base, CPU)
    if lora.is_full:
        model.requires_grad_(True)
    else:
        model = adapter.attach(model, lora, added_rows=pretrained.added_rows(base))
        products.settle(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


def kept(model):
    """The bytes that two rows of `TOKENS` keep for the backward pass, as they are trained."""
    held = {}
    weights = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}

    def keep(tensor):
        storage = tensor.untyped_storage()
        held[storage._cdata] = storage
        return tensor

    ids = torch.arange(2 * TOKENS).reshape(2, TOKENS)
    labels = torch.full_like(ids, -100)
    labels[:, -1] = 1
    batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    way = head.on_labelled_tokens
    if attention.joins(model):
        attention.settle(model)
        way = head.on_joined_rows
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        way(model, batch)
    return sum(storage.nbytes() for name, storage in held.items() if name not in weights)


def counted(found):
    """The same, as it was counted."""
    return 2 * TOKENS * (found.saved_per_token + found.saved_per_pair * TOKENS) + found.saved_fixed


VARIANTS: dict[str, dict[str, Any]] = {
    "patterns": {"rank_pattern": {"q_proj": 2}, "layers_to_transform": [1], "peft": {"lora_bias": True}},
    "dora": {"use_dora": True, "dropout": 0.1},
    "whole modules": {"bias": "all", "target_modules": "attention", "modules_to_save": ["lm_head", "norm"]},
    "tokens": {"trainable_token_indices": [1, 2]},
    "mica": {"init": "mica"},
    "full": {"method": "full"},
}


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        *[pytest.param("tiny", name, marks=[] if name == "dora" else pytest.mark.slow) for name in VARIANTS],
        pytest.param("tiny_gpt2", "full", marks=pytest.mark.slow),
    ],
)
def test_a_variant_has_the_trainable_parameters_of_its_run(name, variant):
    base, wanted = ModelConf(f"embedded:{name}"), lora(**VARIANTS[variant])
    model, found = trained(base, wanted), of(base, wanted)
    assert found.trainable == count_parameters(model).trainable
    assert found.trainable_bytes == sum(each.nbytes for each in model.parameters() if each.requires_grad)
    assert kept(model) == pytest.approx(counted(found), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "settings"),
    [
        (ModelConf("embedded:tiny", added_tokens=["<new>", "<newer>"]), {}),
        (ModelConf("embedded:tiny", dtype="bfloat16"), {"use_dora": True}),
        (ModelConf("embedded:tiny", attn_implementation="eager"), {}),
    ],
    ids=["added tokens", "bfloat16", "eager"],
)
def test_a_base_with_settings_has_the_trainable_parameters_of_its_run(base, settings):
    model, found = trained(base, lora(**settings)), of(base, lora(**settings))
    assert found.trainable == count_parameters(model).trainable
    assert found.trainable_bytes == sum(each.nbytes for each in model.parameters() if each.requires_grad)
    assert kept(model) == pytest.approx(counted(found), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2", "qwen3", "phi3"])
def test_an_architecture_keeps_what_was_counted(name):
    base = architectures.base(name)
    model, found = trained(base, lora()), of(base, lora())
    assert found.guesses == ()
    assert kept(model) == pytest.approx(counted(found), rel=0.02)


@pytest.mark.slow
def test_with_checkpointing_blocks_keep_their_inputs():
    found = of(TINY, lora(), gradient_checkpointing=True)
    saved = kept(trained(TINY, lora(), checkpointing=True))
    both = of(TINY, lora())
    one_block = both.saved_per_token / 2  # of two
    assert found.saved_per_token == pytest.approx(saved / (2 * TOKENS) + one_block, rel=0.1)
    assert found.flops_per_token == both.flops_per_token


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(**{**architectures.GPT2_SIZES, "n_layer": 4}),
        Gemma3TextConfig(
            **{**architectures.SIZES, "num_hidden_layers": 6}, layer_types=["sliding_attention", "full_attention"] * 3
        ),
    ],
    ids=["gpt2", "gemma3"],
)
def test_blocks_that_are_alike_are_counted_as_often_as_they_are_there(config):
    def model():
        made = architectures.skeleton(config)
        passes.settle_attention(made, None, "cpu")
        return injection.adapted(made, lora())

    (found,), (whole,) = (passes.counted(model(), [TOKENS], CPU, alike=alike) for alike in (True, False))
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(whole))


@pytest.mark.slow
def test_operations_are_those_of_the_layers():
    plain, full = of(TINY, lora()), of(TINY, lora(method="full"))
    weights = sizes.of_base(TINY).quantizable
    assert full.flops_per_token == 2 * weights
    assert plain.flops_per_token == pytest.approx(2 * (weights + plain.trainable))
    assert full.backward_flops_per_token == pytest.approx(4 * weights, rel=0.05)
    assert plain.backward_flops_per_token == pytest.approx(2 * weights + 4 * plain.trainable, rel=0.15)
    assert of(TINY, lora(use_dora=True)).flops_fixed > 0


@pytest.mark.slow
def test_ranks_between_two_others_are_counted_from_them():
    known = sizes.of_trained(TINY, [lora(r=rank) for rank in (2, 4, 16)], [TRAIN])
    ((ranks),) = known.values()
    assert ranks[4] == of(TINY, lora(r=4))


@pytest.mark.slow
def test_of_a_mixture_the_experts_of_a_token_are_counted(tmp_path):
    config = architectures.MIXTURES["qwen3 moe"]
    config.save_pretrained(tmp_path / "mixture")
    base = ModelConf(str(tmp_path / "mixture"))
    found, model = of(base, lora(experts=True)), architectures.random_model(config)
    assert found.trainable == count_parameters(adapter.attach(model, lora(experts=True))).trainable
    plain = of(base, lora())
    experts, others = 2 * 3 * 64 * 32, 64 * 4 + 2 * 64 * (64 + 32)  # two of three matrices; the router and attention
    assert plain.guesses == ()
    assert plain.flops_per_token == pytest.approx(2 * (2 * (experts + others) + plain.trainable))


@pytest.mark.slow
def test_a_quantised_base_has_its_adapter_in_bfloat16():
    found = of(ModelConf("embedded:tiny", quantization="nf4"), lora(use_dora=True, modules_to_save=["lm_head"]))
    whole = 64 * 259
    magnitudes = found.trainable - whole - of(TINY, lora()).trainable
    assert found.trainable_bytes == 2 * of(TINY, lora()).trainable + 4 * (whole + magnitudes)


@pytest.mark.slow
def test_eva_says_that_its_ranks_are_not_known():
    found = of(TINY, lora(init="eva"))
    assert (found.trainable, len(found.guesses)) == (16384 // 2, 1)


GEMMA = {"vision_config": {"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16}}
"""Of a model with images too, whose own sizes say nothing of the text's."""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gpt2", "n_layer": 2}, "n_embd, vocab_size, n_head: n_embd=768, vocab_size=50257, n_head=12"),
        (
            {"model_type": "llama", "hidden_size": 64, "vocab_size": 99, "num_attention_heads": 2},
            "num_hidden_layers, intermediate_size: num_hidden_layers=32, intermediate_size=11008 is taken",
        ),
        (
            {"model_type": "gemma3", **GEMMA, "text_config": {"hidden_size": 64, "intermediate_size": 64}},
            "num_hidden_layers, vocab_size, num_attention_heads: num_hidden_layers=26",
        ),
    ],
)
def test_sizes_that_a_config_does_not_say_are_said_to_be_guessed(tmp_path, config, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (guess,) = sizes.of_base(ModelConf(str(tmp_path))).guesses
    assert said in guess


@pytest.mark.parametrize("name", ["tiny", "tiny_gpt2"])
def test_a_whole_config_is_no_guess(name):
    assert not sizes.of_base(ModelConf(f"embedded:{name}")).guesses
