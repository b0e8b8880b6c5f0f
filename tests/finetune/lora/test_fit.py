from typing import Any

import pytest
from peft import LoraConfig
from transformers import PhiConfig

from lowrung.config.schema import LoraConf
from lowrung.finetune.lora import adapter, fit, settings
from tests.architectures import CONFIGS, skeleton

LLAMA_HAS = "It has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
HEAD = (
    "lora.target_modules must not name the head, lm_head, which SFTTrainer refuses. Train it whole:"
    " 'lora.modules_to_save=[lm_head]'."
)
QKVO = ", ".join(f"model.layers.0.self_attn.{name}_proj" for name in "qkvo")


def problems(architecture, added_rows=(), **lora):
    return list(fit.problems(skeleton(CONFIGS[architecture]), LoraConf(**{"r": 8, "alpha": 16.0, **lora}), added_rows))


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
                "lora.init=pissa needs ranks of at most the smaller side of each adapted matrix, which is 32 for"
                " model.layers.0.self_attn.k_proj, but its rank is 33. Lower lora.r, or that module's rank in"
                " lora.rank_pattern."
            ],
        ),
        (
            {"init": "lora_ga", "r": 17},
            [
                "lora.init=lora_ga needs ranks of at most half the smaller side of each adapted matrix, which is 16 for"
                " model.layers.0.self_attn.k_proj, but its rank is 17. Lower lora.r, or that module's rank in"
                " lora.rank_pattern."
            ],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_the_model_are_refused(lora, expected):
    assert problems("llama", **lora) == expected


def test_all_problems_come_at_once():
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
    lora = {"added_rows": [5, 6], **lora}
    added_rows = lora.pop("added_rows")
    wanted = LoraConf(**{"r": 8, "alpha": 16.0, **lora})
    model = skeleton(CONFIGS[architecture])
    assert list(fit.problems(model, wanted, added_rows)) == []
    assert settings.token_rows(model, wanted, added_rows) == expected
    config = adapter.attach(model, wanted, added_rows=added_rows).peft_config["default"]
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
    added_rows = lora.pop("added_rows", ())
    found = list(fit.problems(model, LoraConf(r=8, alpha=16.0, **lora), added_rows))
    assert (
        found
        == [
            "The head, lm_head, has biases, which PEFT leaves out where only some of its rows are trained. Train"
            " it whole: 'lora.modules_to_save=[model.embed_tokens,lm_head]'."
        ]
        * is_refused
    )


def test_olora_is_refused_for_conv1d_layers():
    assert problems("gpt2", init="olora") == [
        "lora.init=olora needs linear layers, but the model has Conv1D layers, whose weights are transposed. Use"
        " lora.init=pissa, which fits both."
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
def test_settings_that_fit_are_accepted(architecture, lora):
    assert problems(architecture, **lora) == []
