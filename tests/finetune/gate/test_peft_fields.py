"""What lora.peft, lora.experts and models of several parts change is saved and merged as it was trained."""

import json
from typing import Any

import pytest

from lowrung.config.schema import ModelConf
from tests import architectures, training
from tests.finetune.gate.test_variants import gate, logits

BLOCKS = {"target_modules_bd_a": ["q_proj", "up_proj"], "nblocks": 2, "match_strict": False}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "excluded": ("llama", {"peft": {"exclude_modules": ["q_proj"]}}),
    "biases of B": ("gpt2", {"peft": {"lora_bias": True}}),
    "VeLoRA": ("llama", {"peft": {"velora_config": {"num_groups": 8}}}),
    "blocks": ("llama", {"peft": {"use_bdlora": BLOCKS}}),
    "tied": ("gpt2", {"peft": {"ensure_weight_tying": True}, "modules_to_save": ["lm_head"]}),
    "experts": ("qwen3 moe", {"experts": True}),
    "experts alone": ("gpt oss", {"experts": True, "target_modules": [], "init": "gaussian"}),
    "a router": ("mixtral", {"peft": {"target_parameters": ["gate.weight"]}, "rank_pattern": {"gate.weight": 2}}),
    "Gemma 4": ("gemma4", {}),
    "Gemma 4, an expression": ("gemma4", {"target_modules": r".*\.q_proj", "init": "pissa"}),
    "Gemma 4, embedding": ("gemma4", {"modules_to_save": ["embed_tokens"]}),
    "Gemma 3": ("gemma3", {"use_dora": True}),
}
"""Each with its base, an architecture's name, and settings of the adapter."""


def base(name: str, folder: Any) -> ModelConf:
    others = {**architectures.MIXTURES, **architectures.MULTIMODAL}
    return architectures.saved(others[name], folder) if name in others else architectures.base(name)


@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")  # said of a base that is tied, too
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_field_of_peft_is_saved_and_merged_as_it_was_trained(tmp_path, case):
    name, lora = CASES[case]
    model = base(name, tmp_path / "base")
    trained, _ = training.fine_tune(tmp_path, base=model, lora=lora, max_steps=3, eval_steps=3)
    rows = trained.held_out[:8]
    assert trained.metrics["eval/loss"] < trained.metrics["base/eval_loss"]
    assert gate(tmp_path, model, rows, logits(trained.model, rows)).failures == ()
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert "vision_tower" not in str(saved["target_modules"])
