import dataclasses

import pytest
from peft.tuners.lora import LoraLayer

from lowrung.config.schema import LoraConf
from lowrung.finetune.lora import adapter
from lowrung.finetune.lora.parameters import count_parameters
from tests import architectures
from tests.architectures import skeleton

Shapes = dict[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Block:
    """The linear layers of one block as (in, out), written out from the sizes in `tests.architectures`."""

    path: str
    attention: Shapes
    mlp: Shapes
    some: tuple[str, ...]  # a list of targets, and the layers that they mean
    meant: tuple[str, ...]

    def layers(self, numbers=(0, 1), **shapes):
        return {f"{self.path}.{number}.{name}": shape for number in numbers for name, shape in shapes.items()}


LLAMA = Block(
    "model.layers",
    {
        "self_attn.q_proj": (64, 64),
        "self_attn.k_proj": (64, 32),
        "self_attn.v_proj": (64, 32),
        "self_attn.o_proj": (64, 64),
    },
    {"mlp.gate_proj": (64, 128), "mlp.up_proj": (64, 128), "mlp.down_proj": (128, 64)},
    ("k_proj", "mlp.down_proj"),
    ("self_attn.k_proj", "mlp.down_proj"),
)
GPT2 = Block(
    "transformer.h",
    {"attn.c_attn": (64, 192), "attn.c_proj": (64, 64)},
    {"mlp.c_fc": (64, 256), "mlp.c_proj": (256, 64)},
    ("c_attn", "mlp.c_proj"),  # not attn.c_proj
    ("attn.c_attn", "mlp.c_proj"),
)
PHI3 = Block(
    "model.layers",
    {"self_attn.qkv_proj": (64, 128), "self_attn.o_proj": (64, 64)},
    {"mlp.gate_up_proj": (64, 256), "mlp.down_proj": (128, 64)},
    ("qkv_proj", "mlp.down_proj"),
    ("self_attn.qkv_proj", "mlp.down_proj"),
)
BLOCKS = {name: {"gpt2": GPT2, "phi3": PHI3}.get(name, LLAMA) for name in architectures.CONFIGS}


def attached(architecture, **lora):
    return adapter.attach(skeleton(architectures.CONFIGS[architecture]), LoraConf(**{"r": 4, "alpha": 8.0, **lora}))


def adapted(model):
    return {name for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer)}


def trainable(model):
    return count_parameters(model).trainable


every_architecture = pytest.mark.parametrize("architecture", architectures.CONFIGS)


@pytest.mark.parametrize("preset", ["all-linear", "attention", "mlp", "list", "regex"])
@every_architecture
def test_a_preset_adapts_what_it_names_with_r_times_in_plus_out_parameters(architecture, preset):
    block = BLOCKS[architecture]
    every = {**block.attention, **block.mlp}
    expected, targets = {
        "all-linear": (block.layers(**every), "all-linear"),
        "attention": (block.layers(**block.attention), "attention"),
        "mlp": (block.layers(**block.mlp), "mlp"),
        "list": (block.layers(**{name: every[name] for name in block.meant}), list(block.some)),
        "regex": (block.layers((1,), **block.mlp), r".*\.1\.mlp\.\w+"),
    }[preset]
    model = attached(architecture, target_modules=targets)
    assert adapted(model) == set(expected)
    assert trainable(model) == sum(4 * (size_in + size_out) for size_in, size_out in expected.values())


@every_architecture
def test_ranks_by_pattern_and_chosen_blocks_are_what_is_trained(architecture):
    block = BLOCKS[architecture]
    first, *_ = block.attention
    model = attached(architecture, layers_to_transform=[0], rank_pattern={first: 7, r"0\.mlp\.\w+": 2})
    expected = dict.fromkeys(block.attention, 4) | {first: 7} | dict.fromkeys(block.mlp, 2)
    every = {**block.attention, **block.mlp}
    assert adapted(model) == set(block.layers((0,), **every))
    assert trainable(model) == sum(rank * sum(every[name]) for name, rank in expected.items())


@every_architecture
def test_dora_adds_a_magnitude_for_each_output(architecture):
    block = BLOCKS[architecture]
    outputs = sum(size_out for _, size_out in (block.attention | block.mlp).values())
    assert trainable(attached(architecture, use_dora=True)) - trainable(attached(architecture)) == 2 * outputs


@pytest.mark.parametrize(
    ("architecture", "bias", "targets", "biases"),
    [
        ("qwen2", "all", "mlp", 2 * (64 + 32 + 32)),
        ("qwen2", "lora_only", "attention", 2 * (64 + 32 + 32)),
        ("qwen2", "lora_only", "mlp", 0),
        ("gpt2", "all", "mlp", 2 * (64 + 192 + 64 + 64 + 256 + 64) + 64),  # with those of its layer norms
        ("gpt2", "lora_only", "mlp", 2 * (256 + 64)),
        ("llama", "all", "all-linear", 0),
    ],
)
def test_the_biases_that_are_trained_are_those_that_were_asked_for(architecture, bias, targets, biases):
    plain = trainable(attached(architecture, target_modules=targets))
    assert trainable(attached(architecture, target_modules=targets, bias=bias)) - plain == biases


@pytest.mark.parametrize("architecture", ["llama", "tied llama", "gpt2"])
def test_a_head_that_is_saved_is_trained_whole(architecture):
    count = count_parameters(attached(architecture, modules_to_save=["lm_head"]))
    assert count.by_module["lm_head"] == 264 * 64
    assert count.trainable == trainable(attached(architecture)) + 264 * 64


def test_a_module_to_save_is_the_one_of_that_name_and_no_other_with_the_same_ending():
    # PEFT alone would take input_layernorm and post_attention_layernorm with it.
    assert trainable(attached("llama", modules_to_save=["norm"])) - trainable(attached("llama")) == 64
