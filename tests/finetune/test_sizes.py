"""What is counted without weights is what a model of real numbers has, computes and keeps."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig

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
    ((ranks),) = sizes.of_trained(base, [lora], [dataclasses.replace(TRAIN, **train)]).values()
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
    """The bytes that two rows of `TOKENS` keep for the backward pass, as they are trained, and the operations."""
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
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda it: it):
        way(model, batch)
    return sum(storage.nbytes() for name, storage in held.items() if name not in weights), counter.get_total_flops()


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "patterns": {"rank_pattern": {"q_proj": 2, "down_proj": 6}, "layers_to_transform": [1]},
    "dora": {"use_dora": True, "dropout": 0.1},
    "biases": {"bias": "all", "target_modules": "attention"},
    "whole modules": {"modules_to_save": ["lm_head", "norm"]},
    "tokens": {"trainable_token_indices": [1, 2]},
    "mica": {"init": "mica"},
    "a bias of B": {"peft": {"lora_bias": True}},
    "full": {"method": "full"},
}


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        *[pytest.param("tiny", name, marks=[] if name == "dora" else pytest.mark.slow) for name in VARIANTS],
        *[pytest.param("tiny_gpt2", name, marks=pytest.mark.slow) for name in ("plain", "dora", "full")],
    ],
)
def test_a_variant_has_the_trainable_parameters_of_its_run(name, variant):
    base, wanted = ModelConf(f"embedded:{name}"), lora(**VARIANTS[variant])
    model, found = trained(base, wanted), of(base, wanted)
    assert found.trainable == count_parameters(model).trainable
    assert found.trainable_bytes == sum(each.nbytes for each in model.parameters() if each.requires_grad)
    assert kept(model)[0] == pytest.approx(2 * TOKENS * found.saved_per_token + found.saved_fixed, rel=0.02)


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
    of_token = found.saved_per_token + found.saved_per_pair * TOKENS
    assert kept(model)[0] == pytest.approx(2 * TOKENS * of_token + found.saved_fixed, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in architectures.CONFIGS if name not in ("gpt2", "mistral", "gemma3")])
def test_an_architecture_keeps_what_was_counted(name):
    base = architectures.base(name)
    model, found = trained(base, lora()), of(base, lora())
    saved, _ = kept(model)
    assert found.guesses == ()
    of_token = found.saved_per_token + found.saved_per_pair * TOKENS
    assert saved == pytest.approx(2 * TOKENS * of_token + found.saved_fixed, rel=0.02)


@pytest.mark.slow
def test_with_checkpointing_blocks_keep_their_inputs():
    found = of(TINY, lora(), gradient_checkpointing=True)
    saved, _ = kept(trained(TINY, lora(), checkpointing=True))
    both = of(TINY, lora())
    one_block = both.saved_per_token / 2  # of two
    assert found.saved_per_token == pytest.approx(saved / (2 * TOKENS) + one_block, rel=0.1)
    assert found.flops_per_token == both.flops_per_token


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**{**architectures.SIZES, "num_hidden_layers": 5}),
        GPT2Config(**{**architectures.GPT2_SIZES, "n_layer": 4}),
        Gemma3TextConfig(
            **{**architectures.SIZES, "num_hidden_layers": 6}, layer_types=["sliding_attention", "full_attention"] * 3
        ),
    ],
    ids=["llama", "gpt2", "gemma3"],
)
def test_blocks_that_are_alike_are_counted_as_often_as_they_are_there(config):
    def model():
        made = architectures.skeleton(config)
        passes.settle_attention(made, None, "cpu")
        return injection.adapted(made, lora())

    (found,), (whole,) = (passes.counted(model(), [TOKENS], CPU, alike=alike) for alike in (True, False))
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(whole))


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
def test_a_mixture_says_what_is_a_guess(tmp_path):
    architectures.MIXTURES["qwen3 moe"].save_pretrained(tmp_path / "mixture")
    base = ModelConf(str(tmp_path / "mixture"))
    found = of(base, lora(experts=True))
    model = adapter.attach(architectures.random_model(architectures.MIXTURES["qwen3 moe"]), lora(experts=True))
    assert found.trainable == count_parameters(model).trainable
    assert found.saved_per_token > 0
    assert found.guesses == () or "needs numbers" in found.guesses[0]


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
