"""What PEFT refuses is found on the base without weights, and nothing else is refused."""

from typing import Any

import pytest
from torch import nn
from transformers import MambaConfig

from lowrung.config.schema import LoraConf
from lowrung.finetune.lora import adapter, fit, injection, unadapted
from tests.architectures import CONFIGS, MIXTURES, MULTIMODAL, TOKENS, skeleton

MAMBA = MambaConfig(**TOKENS, hidden_size=64, num_hidden_layers=2, state_size=8)
BLOCKS = {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["o_proj"], "nblocks": 2}


def lora(**changed: Any) -> LoraConf:
    return LoraConf(**{"r": 4, "alpha": 8.0, **changed})


def problems(model: Any, **changed: Any) -> list[str]:
    """Those of settings that fit, by PEFT's word."""
    settings = lora(**changed)
    return list(fit.problems(model, settings)) or injection.refusals(model, [settings])


def test_a_layer_that_peft_refuses_is_named_with_the_way_around_it():
    (problem,) = problems(skeleton(MAMBA))
    assert problem.startswith("lora.target_modules means backbone.layers.0.mixer.out_proj, which PEFT refuses: ")
    assert problem.endswith("Leave such layers out: 'lora.peft.exclude_modules=[out_proj]'.")
    assert problems(skeleton(MAMBA), peft={"exclude_modules": ["out_proj"]}) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"use_dora": True, "peft": {"velora_config": {"num_groups": 8}}},
            "combination: ('use_dora', 'velora_config')",
        ),
        ({"r": 3, "target_modules": ["q_proj"], "peft": {"use_bdlora": BLOCKS}}, "not divisible by 2."),
        (
            {"init": "pissa", "peft": {"lora_bias": True}},
            "lora_bias=True is only supported with init_lora_weights=True",
        ),
    ],
)
def test_settings_that_peft_refuses_for_every_layer_are_one_problem(changed, words):
    name = "gpt2" if "init" in changed else "llama"
    (problem,) = problems(skeleton(CONFIGS[name]), **changed)
    assert problem.startswith("PEFT refuses these settings of lora: ")
    assert words in problem


def test_one_kind_of_layer_may_be_refused():
    found = problems(skeleton(CONFIGS["llama"]), target_modules="attention", peft={"use_bdlora": BLOCKS})
    assert [problem.split(",")[0].rsplit(".", 1)[-1] for problem in found] == ["k_proj", "v_proj"]


def test_what_only_lacks_numbers_is_not_refused():
    """This start reads the weights' norm, which a skeleton has not."""
    assert problems(skeleton(CONFIGS["llama"]), peft={"velora_config": {"num_groups": 8, "init_type": "random"}}) == []


@pytest.mark.parametrize("config", [*MULTIMODAL.values(), *MIXTURES.values()], ids=[*MULTIMODAL, *MIXTURES])
def test_the_skeleton_is_as_it_was(config):
    model = skeleton(config)
    before = {name: type(module) for name, module in model.named_modules()}
    assert problems(model) == []
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_settings_that_differ_in_what_peft_takes_at_any_value_are_tried_once(monkeypatch):
    tried: list[int] = []

    def note(model: Any, lora: LoraConf, added_rows: Any) -> list[str]:
        tried.append(lora.r)
        return []

    monkeypatch.setattr(injection, "_refusals", note)
    injection.refusals(skeleton(CONFIGS["llama"]), [lora(r=r, alpha=alpha) for r in (4, 8) for alpha in (1.0, 2.0)])
    assert tried == [4, 8]


@pytest.mark.parametrize("wanted", ["all-linear", ["q_proj"], r".*\.q_proj", r".*language_model\.layers\.\d\.mlp.*"])
def test_text_adapts_the_language_model_alone(wanted):
    model = skeleton(MULTIMODAL["gemma4"])
    assert problems(model, target_modules=wanted) == []
    adapted = adapter.adapted_layers(adapter.attach(model, lora(target_modules=wanted)))
    assert adapted
    assert all(name.startswith("model.language_model.") for name in adapted)


@pytest.mark.slow
def test_layers_beside_the_language_model_are_noted():
    (note,) = unadapted.notes(skeleton(MULTIMODAL["gemma4"]), lora(target_modules=r".*\.q_proj\.linear|.*\.q_proj"))
    assert note.startswith("1 linear layers that lora.target_modules means stay as they are, since text does not go")
    (problem,) = problems(skeleton(MULTIMODAL["gemma4"]), target_modules=r".*vision_tower.*")
    assert "must fit linear modules of the model, but '.*vision_tower.*' fits none" in problem
    assert list(unadapted.notes(skeleton(CONFIGS["llama"]), lora())) == []


def test_names_that_end_others_are_given_as_an_expression():
    """A tower whose layers end with the whole names of the language model's: no list of names tells them apart."""
    model = skeleton(CONFIGS["llama"])
    tower = nn.Module()
    tower.model = skeleton(CONFIGS["llama"]).model
    model.tower = tower
    wanted = r"model\.layers\.0\.self_attn\.[qv]_proj"
    assert problems(model, target_modules=wanted) == []
    adapted = adapter.adapted_layers(adapter.attach(model, lora(target_modules=wanted)))
    assert [*adapted] == ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]


class TestExperts:
    """Parameters that hold a matrix for each expert."""

    @pytest.mark.parametrize("name", MIXTURES)
    def test_are_left_as_they_are_with_a_note_that_says_how_to_adapt_them(self, name):
        model = skeleton(MIXTURES[name])
        note = next(unadapted.notes(model, lora()))
        assert "which experts.down_proj and experts.gate_up_proj are not: " in note
        assert note.endswith("of the model's weights stay as they are; lora.experts=true adapts them")
        assert not any("lora.experts" in note for note in unadapted.notes(model, lora(experts=True)))
        assert not any("lora.experts" in note for note in unadapted.notes(model, lora(target_modules=["q_proj"])))

    @pytest.mark.parametrize("name", MIXTURES)
    def test_have_a_rank_each(self, name):
        model = skeleton(MIXTURES[name])
        assert problems(model, experts=True, target_modules=[]) == []
        shapes = {known: p.shape for known, p in model.named_parameters() if p.ndim == 3}
        adapted = adapter.attach(model, lora(experts=True, target_modules=[], rank_pattern={"down_proj": 2}))
        ranks = {known: layer["rank"] for known, layer in adapter.ranks(adapted).items()}
        assert ranks == {known: 2 if "down" in known else 4 for known in shapes}
        trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert trainable == sum(n * ranks[known] * (a + b) for known, (n, a, b) in shapes.items())

    def test_of_some_layers_can_be_adapted_alone(self):
        adapted = adapter.attach(skeleton(MIXTURES["mixtral"]), lora(experts=True, layers_to_transform=[1]))
        assert {known.split(".")[2] for known in adapter.ranks(adapted)} == {"1"}
        assert len(adapter.ranks(adapted)) == 6

    def test_of_a_model_without_them_are_a_problem(self):
        assert problems(skeleton(CONFIGS["llama"]), experts=True) == [
            "lora.experts=true needs a mixture with stacked experts, but the model has none. Leave it out."
        ]

    def test_names_that_peft_takes_for_theirs_are_left_out(self):
        model = skeleton(MIXTURES["partly dense"])
        _, note = unadapted.notes(model, lora())
        assert note.startswith("3 linear layers that lora.target_modules means stay as they are, since PEFT takes")
        (problem,) = problems(model, target_modules=["q_proj", "gate_proj"])
        assert "has no gate_proj" in problem
        assert problem.endswith("PEFT takes gate_proj for names of experts: use lora.experts=true.")

    def test_a_router_that_returns_two_tensors_is_no_target(self):
        adapted = adapter.attach(skeleton(MIXTURES["phi moe"]), lora())
        assert not any("router" in known for known in adapter.ranks(adapted))
