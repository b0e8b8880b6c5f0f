"""Every field of PEFT's LoraConfig is either a setting of lora.peft or refused with its reason."""

import dataclasses
from typing import Any

import pytest
from peft import LoraConfig

from lowrung.config.schema import LoraConf
from lowrung.finetune.lora import adapter, fit, peft_options
from tests.architectures import CONFIGS, MIXTURES, skeleton

GIVEN: dict[str, Any] = {
    "exclude_modules": ["down_proj"],
    "layers_pattern": "layers",
    "target_parameters": ["experts.down_proj"],
    "velora_config": {"num_groups": 8},
    "runtime_config": {"ephemeral_gpu_offload": True},
    "lora_bias": True,
    "use_bdlora": {"nblocks": 2, "match_strict": False},
    "ensure_weight_tying": True,
}
"""A value for each field that may be given; tests/finetune/gate/test_peft_fields.py trains and merges with them."""

FIELDS = [field.name for field in dataclasses.fields(LoraConfig)]


def problems(**given: Any) -> list[str]:
    return peft_options.problems(LoraConf(r=4, alpha=8.0, layers_to_transform=[0], peft=given))


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_of_the_installed_peft_is_known(name):
    """A field that a release of PEFT adds fails here, until it was tried through the gate or is refused."""
    assert (name in GIVEN) != (name in peft_options.OWNED)
    if name in GIVEN:
        assert problems(**{name: GIVEN[name]}) == []
    else:
        (problem,) = problems(**{name: None})
        assert problem == f"lora.peft.{name} must be left out: {peft_options.OWNED[name]}."


def test_no_field_is_refused_that_peft_does_not_have():
    assert set(FIELDS) >= set(peft_options.OWNED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"exclude_module": ["a"]}, "lora.peft.exclude_module is not a field of LoraConfig (peft "),
        ({"exclude_modules": 3}, "lora.peft.exclude_modules must be a list of texts or a text or null, but is 3."),
        ({"r": 8}, "lora.peft.r must be left out: lora.r sets it. Use lora.r."),
        ({"velora_config": {"groups": 8}}, "lora.peft.velora_config.groups is not a field of VeloraConfig (peft "),
    ],
)
def test_what_is_no_option_is_refused(given, said):
    (problem,) = problems(**given)
    assert problem.startswith(said)


def adapted(name: str = "llama", **changed: Any) -> list[str]:
    configs = {**CONFIGS, **MIXTURES}
    lora = LoraConf(**{"r": 4, "alpha": 8.0, **changed})
    assert list(fit.problems(skeleton(configs[name]), lora)) == []
    return [*adapter.ranks(adapter.attach(skeleton(configs[name]), lora))]


@pytest.mark.parametrize("excluded", [["down_proj", "layers.0.mlp.up_proj"], r".*\.down_proj|.*\.0\.mlp\.up_proj"])
def test_excluded_modules_are_not_adapted(excluded):
    names = adapted(peft={"exclude_modules": excluded})
    assert set(adapted()) - set(names) == {
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.0.mlp.up_proj",
    }


def test_the_list_of_blocks_can_be_named():
    assert adapted(layers_to_transform=[1], peft={"layers_pattern": ["h", "layers"]}) == adapted(
        layers_to_transform=[1]
    )


def test_parameters_are_named_by_their_ends():
    names = adapted("mixtral", target_modules=[], peft={"target_parameters": ["1.mlp.experts.down_proj"]})
    assert names == ["model.layers.1.mlp.experts.down_proj"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"peft": {"exclude_modules": ".*"}}, "fits none that lora.peft.exclude_modules='.*' leaves. It has"),
        ({"peft": {"layers_pattern": "h"}}, "counts, but that is null. Set lora.layers_to_transform"),
        ({"layers_to_transform": [0], "peft": {"layers_pattern": "h"}}, "but no layer is in 'h'."),
        ({"peft": {"target_parameters": ["nothing"]}}, "must name parameters of the model, but it has no nothing."),
        ({"peft": {"target_parameters": ["norm.weight"]}}, "norm.weight has the shape (64,)."),
        ({"peft": {"lora_bias": True}}, "model.layers.0.self_attn.q_proj, model.layers.0.self_attn.k_proj"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(changed, said):
    (problem,) = fit.problems(skeleton(CONFIGS["llama"]), LoraConf(r=4, alpha=8.0, **changed))
    assert said in problem
