"""Which modules text goes through, seen in a forward pass without numbers."""

import pytest
from transformers import JambaConfig

from lowrung.finetune.models import text_path
from tests.architectures import CONFIGS, MIXTURES, MULTIMODAL, SIZES, skeleton

TOWERS = {"gemma3": "model.vision_tower", "gemma4": "model.vision_tower", "git": "git.image_encoder"}


@pytest.mark.parametrize("name", MULTIMODAL)
def test_text_goes_through_the_language_model_and_not_through_the_tower(name):
    model = skeleton(MULTIMODAL[name])
    assert text_path.has_other_inputs(model)
    reached = text_path.in_language_model(model)
    tower = {known for known, _ in model.named_modules() if known.startswith(TOWERS[name])}
    assert tower
    assert not tower & reached
    layers = {known for known, _ in model.named_modules() if ".layers.1.mlp" in known or ".layer.1.output" in known}
    assert layers & reached


@pytest.mark.parametrize("config", [*CONFIGS.values(), *MIXTURES.values()], ids=[*CONFIGS, *MIXTURES])
def test_of_a_language_model_every_layer_is_reached(config):
    model = skeleton(config)
    assert not text_path.has_other_inputs(model)
    reached = text_path.reached(model)
    assert reached is not None
    assert {name for name, _ in model.named_modules() if name.endswith(("q_proj", "c_attn", "experts"))} <= reached


def test_a_layer_whose_weights_are_taken_without_a_call_is_not_reached():
    sizes = {name: size for name, size in SIZES.items() if name != "head_dim"}
    model = skeleton(JambaConfig(**sizes, num_experts=1, mamba_d_state=8, attn_layer_period=2, attn_layer_offset=1))
    reached = text_path.reached(model)
    assert reached is not None
    assert "model.layers.0.mamba.in_proj" in reached
    assert "model.layers.0.mamba.dt_proj" not in reached


def test_where_no_pass_can_be_made_the_decoder_is_the_language_model(monkeypatch):
    monkeypatch.setattr(text_path, "_called", lambda model: None)
    model = skeleton(MULTIMODAL["gemma3"])
    inside = text_path.in_language_model(model)
    assert "model.language_model.layers.0.self_attn.q_proj" in inside
    assert not any(name.startswith("model.vision_tower") for name in inside)
