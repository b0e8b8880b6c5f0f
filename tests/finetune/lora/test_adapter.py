from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import GPT2Config, LlamaConfig, PhiConfig

from lowrung.finetune.lora import adapter
from lowrung.finetune.lora import settings as lora_settings
from lowrung.finetune.lora.settings import Lora
from lowrung.finetune.models import pretrained
from lowrung.finetune.models.pretrained import Base
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
    return adapter.attach(skeleton(config), Lora(**{"r": 8, "alpha": 16.0, **lora}))


def layers(model):
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


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
    scalings = {module.scaling["default"] for _, module in layers(model)}
    assert scalings == {scaling}


def test_ranks_are_those_that_are_trained():
    ranks = adapter.ranks(attached(SMOLLM2, r=4, alpha=8.0, rank_pattern={"q_proj": 16}, alpha_pattern={"v_proj": 2.0}))
    assert len(ranks) == 210
    assert ranks["model.layers.29.self_attn.q_proj"] == {"rank": 16, "scaling": 0.5}
    assert ranks["model.layers.0.self_attn.v_proj"] == {"rank": 4, "scaling": 0.5}
    assert ranks["model.layers.0.mlp.up_proj"] == {"rank": 4, "scaling": 2.0}


def test_targetable_are_the_linear_layers_but_the_head():
    assert lora_settings.targetable(skeleton(SMOLLM2)) == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    assert lora_settings.targetable(skeleton(GPT2Config())) == ["c_attn", "c_fc", "c_proj"]


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
    base = pretrained.load_base(Base(path, dtype="bfloat16"), torch.device("cpu"))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = base(input_ids=ids).logits.float()
        adapted = adapter.attach(base, Lora(r=4, alpha=8.0, use_dora=True)).eval()
        assert torch.equal(adapted(input_ids=ids).logits.float(), before)  # PEFT's alone: 0.035 off with tiny


def test_dropout_is_on_every_adapted_layer():
    model = attached(CONFIGS["gpt2"], dropout=0.25)
    assert {module.lora_dropout["default"].p for _, module in layers(model)} == {0.25}


# -- what cannot be ----------------------------------------------------------------------------------------------------

LLAMA_HAS = "It has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
HEAD = (
    "lora.target_modules cannot hold the head, lm_head, which SFTTrainer refuses. Train it whole:"
    " 'lora.modules_to_save=[lm_head]'."
)
QKVO = ", ".join(f"model.layers.0.self_attn.{name}_proj" for name in "qkvo")


def problems(architecture, **lora):
    return list(lora_settings.problems(skeleton(CONFIGS[architecture]), Lora(**{"r": 8, "alpha": 16.0, **lora})))


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        ({"target_modules": "lm_head"}, [HEAD]),
        ({"target_modules": ["q_proj", "lm_head"]}, [HEAD]),
        (
            {"target_modules": ["c_attn", "q_proj", "embed_tokens"]},
            [
                "lora.target_modules must name linear modules of the model, but it has no c_attn, embed_tokens."
                f" {LLAMA_HAS}"
            ],
        ),
        (
            {"target_modules": ["proj"]},  # the end of a name, but not after a dot
            [f"lora.target_modules must name linear modules of the model, but it has no proj. {LLAMA_HAS}"],
        ),
        (
            {"target_modules": "model"},  # the beginning of every whole name
            [
                "lora.target_modules must fit linear modules of the model, but 'model' fits none. It has"
                f" {QKVO} and 10 more."
            ],
        ),
        (
            {"target_modules": r".*\.c_\w+"},
            [
                r"lora.target_modules must fit linear modules of the model, but '.*\\.c_\\w+' fits none. It has"
                f" {QKVO} and 10 more."
            ],
        ),
        (
            {"modules_to_save": ["lm_head", "score", "head"]},
            [
                "lora.modules_to_save must name modules of the model, but it has no score.",
                "lora.modules_to_save must name modules of the model, but it has no head.",
            ],
        ),
        (
            {"target_modules": "attention", "rank_pattern": {"[qv]_proj": 4, "up_proj": 4}},
            [f"lora.rank_pattern must name adapted modules, but 'up_proj' fits none of {QKVO} and 4 more."],
        ),
        (
            {"layers_to_transform": [0], "alpha_pattern": {r"layers\.1\..*": 4.0, "proj": 4.0}},
            [
                r"lora.alpha_pattern must name adapted modules, but 'layers\\.1\\..*' fits none of"
                f" {QKVO} and 3 more.",
                f"lora.alpha_pattern must name adapted modules, but 'proj' fits none of {QKVO} and 3 more.",
            ],
        ),
        (
            {"layers_to_transform": [1, 2, 7]},
            ["lora.layers_to_transform must be blocks of the model, 0 to 1, but holds 2, 7."],
        ),
        (
            {"init": "pissa", "r": 33},
            [
                "lora.init=pissa needs ranks up to the smaller side of each adapted matrix, but lora.r is 33, and"
                " model.layers.0.self_attn.k_proj has 32. Lower lora.r, or that module's rank in lora.rank_pattern."
            ],
        ),
        (
            {"init": "lora_ga", "r": 17},
            [
                "lora.init=lora_ga needs ranks up to half the smaller side of each adapted matrix, but lora.r is 17,"
                " and model.layers.0.self_attn.k_proj has 16. Lower lora.r, or that module's rank in lora.rank_pattern."
            ],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_the_model_is_told(lora, expected):
    assert problems("llama", **lora) == expected


def test_all_problems_are_told_at_once():
    found = problems("llama", target_modules=["lm_head", "fc"], modules_to_save=["score"], layers_to_transform=[2])
    assert [problem.split(" ")[0] for problem in found] == [
        "lora.target_modules",
        "lora.target_modules",
        "lora.layers_to_transform",
        "lora.modules_to_save",
    ]


@pytest.mark.parametrize(
    ("architecture", "lora", "expected"),
    [
        ("llama", {"trainable_token_indices": [0, 263], "modules_to_save": ["lm_head"]}, None),
        (
            "llama",
            {"trainable_token_indices": [0, 264, 300]},
            "lora.trainable_token_indices must be tokens of the model, 0 to 263, but holds 264, 300.",
        ),
        (
            "llama",
            {"trainable_token_indices": [0], "modules_to_save": ["embed_tokens"]},
            "lora.trainable_token_indices trains rows of a matrix that lora.modules_to_save trains whole: embed_tokens."
            " Leave one of them out.",
        ),
        (
            "gpt2",
            {"trainable_token_indices": [0], "modules_to_save": ["lm_head"]},
            "lora.trainable_token_indices trains rows of a matrix that lora.modules_to_save trains whole: lm_head,"
            " which is tied to the embedding. Leave one of them out.",
        ),
    ],
)
def test_tokens_are_the_models_and_not_trained_twice(architecture, lora, expected):
    assert problems(architecture, **lora) == ([expected] if expected else [])


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT's, where both are trained whole
@pytest.mark.parametrize(
    ("architecture", "lora", "expected"),
    [
        ("llama", {}, {"model.embed_tokens": [5, 6], "lm_head": [5, 6]}),
        ("tied llama", {}, {"model.embed_tokens": [5, 6]}),
        ("gpt2", {"trainable_token_indices": [9, 6, 1]}, {"transformer.wte": [1, 5, 6, 9]}),
        ("llama", {"trainable_token_indices": [9]}, {"model.embed_tokens": [5, 6, 9], "lm_head": [5, 6]}),
        ("llama", {"modules_to_save": ["lm_head"]}, {"model.embed_tokens": [5, 6]}),
        ("llama", {"modules_to_save": ["embed_tokens"]}, {"lm_head": [5, 6]}),
        ("tied llama", {"modules_to_save": ["embed_tokens", "lm_head"]}, {}),
        ("llama", {"added_rows": (), "trainable_token_indices": [9]}, {"model.embed_tokens": [9]}),
        ("llama", {"added_rows": ()}, {}),
    ],
)
def test_added_rows_are_trained_in_both_matrices_where_these_are_not_trained_whole(architecture, lora, expected):
    settings = Lora(**{"r": 8, "alpha": 16.0, "added_rows": [5, 6], **lora})
    model = skeleton(CONFIGS[architecture])
    assert list(lora_settings.problems(model, settings)) == []
    assert lora_settings.token_rows(model, settings) == expected
    config = adapter.attach(model, settings).peft_config["default"]
    assert isinstance(config, LoraConfig)
    assert config.trainable_token_indices == (expected or None)


@pytest.mark.parametrize("half", ["embed_tokens", "lm_head"])
def test_half_of_what_is_tied_cannot_be_trained_whole_with_added_rows(half):
    name = {"embed_tokens": "model.embed_tokens"}.get(half, half)
    assert problems("tied llama", added_rows=[5], modules_to_save=[half]) == [
        "model.added_tokens need rows in the embedding and in the head that is tied to it, but lora.modules_to_save"
        f" trains only {name}. Name both, 'lora.modules_to_save=[model.embed_tokens,lm_head]', or neither."
    ]


@pytest.mark.parametrize(
    ("tied", "lora", "is_refused"),
    [
        (False, {"added_rows": [5]}, True),
        (False, {"trainable_token_indices": [5]}, False),
        (True, {"trainable_token_indices": [5]}, True),
        (False, {"added_rows": [5], "modules_to_save": ["lm_head"]}, False),
        (True, {"added_rows": [5], "modules_to_save": ["lm_head", "embed_tokens"]}, False),
    ],
)
def test_single_rows_of_a_head_with_biases_are_refused(tied, lora, is_refused):
    """PEFT computes such a head without its biases."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = skeleton(PhiConfig(vocab_size=16, tie_word_embeddings=tied, **sizes))
    found = list(lora_settings.problems(model, Lora(r=8, alpha=16.0, **lora)))
    assert (
        found
        == [
            "The head, lm_head, has biases, which PEFT leaves out where only some of its rows are trained. Train"
            " it whole: 'lora.modules_to_save=[model.embed_tokens,lm_head]'."
        ]
        * is_refused
    )


def test_olora_is_refused_where_weights_lie_the_other_way_round():
    assert problems("gpt2", init="olora") == [
        "lora.init=olora does not fit Conv1D layers, whose weights are the other way round from what PEFT decomposes."
        " Use lora.init=pissa, which does."
    ]


@pytest.mark.parametrize(
    ("architecture", "lora"),
    [
        ("llama", {"init": "pissa", "r": 32}),
        ("llama", {"init": "lora_ga", "r": 16}),
        ("llama", {"init": "eva", "r": 1000}),
        ("llama", {"init": "olora", "r": 64, "rank_pattern": {"[kv]_proj": 32}}),
        ("llama", {"init": "pissa", "r": 64, "target_modules": ["q_proj", "o_proj"]}),
        ("llama", {"r": 1000}),  # only a decomposition has an end
        ("gpt2", {"init": "pissa", "target_modules": ["mlp.c_proj"], "rank_pattern": {r"h\.0\.mlp\.c_proj": 16}}),
        ("phi3", {"target_modules": r".*(qkv|gate_up)_proj", "layers_to_transform": None}),
        ("gemma3", {"layers_to_transform": [1], "modules_to_save": ["lm_head", "norm"]}),
    ],
)
def test_what_fits_is_let_through(architecture, lora):
    assert problems(architecture, **lora) == []
