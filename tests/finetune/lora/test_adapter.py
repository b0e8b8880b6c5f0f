import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import GPT2Config, LlamaConfig

from lowrung.config.schema import LoraConf, ModelConf
from lowrung.finetune.lora import adapter, settings
from lowrung.finetune.lora.parameters import count_parameters
from lowrung.finetune.models import pretrained
from tests.architectures import CONFIGS, skeleton

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


def attached(config, **lora):
    return adapter.attach(skeleton(config), LoraConf(**{"r": 8, "alpha": 16.0, **lora}))


def layers(model):
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


@pytest.mark.slow
@pytest.mark.parametrize("r", [1, 16])
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
    count = count_parameters(attached(SMOLLM2, r=r))
    assert count.by_module == {name: 30 * r * sum(shape) for name, shape in sorted(shapes.items())}
    assert count.trainable == 30 * r * sum(map(sum, shapes.values()))
    assert count.total - count.trainable == 134_515_008


@pytest.mark.slow
def test_smollm2_at_rank_8():
    count = count_parameters(attached(SMOLLM2))
    assert count.trainable == 2_442_240
    assert str(count) == "trainable params: 2,442,240 || all params: 136,957,248 || trainable%: 1.7832"


def test_gpt2_small_counts_its_conv1d_layers():
    one = count_parameters(attached(GPT2Config(), target_modules=["c_attn"]))
    both = count_parameters(attached(GPT2Config(), target_modules=["c_attn", "c_proj"]))
    assert (one.trainable, both.trainable) == (294_912, 811_008)


@pytest.mark.slow
@pytest.mark.parametrize(("use_rslora", "scaling"), [(False, 16 / 4), (True, 16 / 2)])
def test_scaling_is_alpha_over_r_or_over_its_root(use_rslora, scaling):
    model = attached(SMOLLM2, r=4, alpha=16.0, use_rslora=use_rslora)
    scalings = {module.scaling["default"] for _, module in layers(model)}
    assert scalings == {scaling}


@pytest.mark.slow
def test_ranks_are_those_that_are_trained():
    ranks = adapter.ranks(attached(SMOLLM2, r=4, alpha=8.0, rank_pattern={"q_proj": 16}, alpha_pattern={"v_proj": 2.0}))
    assert len(ranks) == 210
    assert ranks["model.layers.29.self_attn.q_proj"] == {"rank": 16, "scaling": 0.5}
    assert ranks["model.layers.0.self_attn.v_proj"] == {"rank": 4, "scaling": 0.5}
    assert ranks["model.layers.0.mlp.up_proj"] == {"rank": 4, "scaling": 2.0}


def test_targetable_are_the_linear_layers_but_the_head():
    assert settings.targetable(skeleton(SMOLLM2)) == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    assert settings.targetable(skeleton(GPT2Config())) == ["c_attn", "c_fc", "c_proj"]


def test_alphas_by_pattern_scale_what_they_name():
    model = attached(CONFIGS["llama"], r=4, alpha=8.0, rank_pattern={"q_proj": 2}, alpha_pattern={"[qk]_proj": 3.0})
    scalings = {name.rsplit(".", 1)[-1]: m.scaling["default"] for name, m in layers(model)}
    assert {name: scalings[name] for name in ("q_proj", "k_proj", "v_proj")} == {
        "q_proj": 3 / 2,
        "k_proj": 3 / 4,
        "v_proj": 8 / 4,
    }


@pytest.mark.parametrize("path", ["embedded:tiny", "embedded:tiny_gpt2"])
def test_dora_starts_at_its_base_in_bfloat16_too(path):
    """The norms of the weights, rounded to bfloat16, would be magnitudes that are not those of the weights."""
    base = pretrained.load_base(ModelConf(path, dtype="bfloat16"), torch.device("cpu"))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = base(input_ids=ids).logits.float()
        adapted = adapter.attach(base, LoraConf(r=4, alpha=8.0, use_dora=True)).eval()
        assert torch.equal(adapted(input_ids=ids).logits.float(), before)  # PEFT's alone: 0.035 off with tiny


def test_dropout_is_on_every_adapted_layer():
    model = attached(CONFIGS["gpt2"], dropout=0.25)
    assert {module.lora_dropout["default"].p for _, module in layers(model)} == {0.25}
