import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from lowrung.finetune import adapter
from lowrung.finetune.adapter import Lora

SMOLLM2 = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    tie_word_embeddings=True,
)


def skeleton(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def attached(config, **lora):
    return adapter.attach(skeleton(config), Lora(**{"r": 8, "alpha": 16.0, **lora}))


@pytest.mark.parametrize("r", [1, 8, 16])
def test_lora_has_r_times_in_plus_out_parameters_per_linear_layer(r):
    # SmolLM2-135M, by module: (in, out) from its config.
    shapes = {
        "q_proj": (576, 576),
        "k_proj": (576, 192),
        "v_proj": (576, 192),
        "o_proj": (576, 576),
        "gate_proj": (576, 1536),
        "up_proj": (576, 1536),
        "down_proj": (1536, 576),
    }
    count = adapter.count_parameters(attached(SMOLLM2, r=r))
    assert count.by_module == {name: 30 * r * sum(shape) for name, shape in sorted(shapes.items())}
    assert count.trainable == 30 * r * sum(map(sum, shapes.values()))
    assert count.total - count.trainable == 134_515_008


def test_smollm2_at_rank_8():
    count = adapter.count_parameters(attached(SMOLLM2))
    assert count.trainable == 2_442_240
    assert str(count) == "trainable params: 2,442,240 || all params: 136,957,248 || trainable%: 1.7832"


def test_gpt2_small_counts_its_conv1d_layers():
    one = adapter.count_parameters(attached(GPT2Config(), target_modules=["c_attn"]))
    both = adapter.count_parameters(attached(GPT2Config(), target_modules=["c_attn", "c_proj"]))
    assert (one.trainable, both.trainable) == (294_912, 811_008)


@pytest.mark.parametrize(("use_rslora", "scaling"), [(False, 16 / 4), (True, 16 / 2)])
def test_scaling_is_alpha_over_r_or_over_its_root(use_rslora, scaling):
    model = attached(SMOLLM2, r=4, alpha=16.0, use_rslora=use_rslora)
    scalings = {module.scaling["default"] for module in model.modules() if isinstance(module, LoraLayer)}
    assert scalings == {scaling}


def test_targetable_are_the_linear_layers_but_the_head():
    assert adapter.targetable(skeleton(SMOLLM2)) == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    assert adapter.targetable(skeleton(GPT2Config())) == ["c_attn", "c_fc", "c_proj"]
