"""`lowrung inspect` on adapters that were trained, and on such that were spoilt."""

import json
import shutil
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lowrung.__main__ import main
from lowrung.adapters import files, updates
from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained
from lowrung.store import layout

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def change(adapter):
    """Changes an adapter's tensors, or its settings."""

    def apply(tensors=lambda name, tensor: tensor, **settings):
        file = adapter / WEIGHTS
        spoilt = {name: tensors(name, tensor) for name, tensor in load_file(file).items()}
        save_file({name: tensor for name, tensor in spoilt.items() if tensor is not None}, file)
        config = adapter / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))

    return apply


def test_it_says_what_the_adapter_is(here, adapter, capsys):
    main(["inspect", "mine/0"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        f"adapter     {adapter}",
        "base        embedded:tiny",
        "run         ab12, complete, gate passed",
        "settings    LoRA, r 4, alpha 8, dropout 0",
        "parameters  8,192",
    ]
    assert lines[6].split() == ["layer", "count", "rank", "scaling", "out", "x", "in", "mean", "‖ΔW‖", "max", "‖ΔW‖"]
    assert {line.split()[0] for line in lines[7:]} == set(
        "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    )


@pytest.mark.parametrize("name", ["mine/0", "multirun/mine/0", "multirun/mine/0/run", "ab12", "runs/ab12/adapter"])
def test_an_adapter_has_many_names(here, adapter, capsys, name):
    main(["inspect", name])
    assert capsys.readouterr().out.splitlines()[0] == f"adapter     {adapter}"


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_norms_and_scalings_are_those_of_the_update_that_peft_adds(tmp_path, settings):
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **settings)
    model = get_peft_model(pretrained.load_base(ModelConf("embedded:tiny"), torch.device("cpu")), config)
    model.save_pretrained(tmp_path)
    layers = updates.layers(files.read(tmp_path))
    assert len(layers) == 4
    for layer in layers:
        peft: Any = model.get_submodule(f"base_model.model.{layer.name}")
        assert layer.rank == peft.r["default"]
        assert layer.scaling == pytest.approx(peft.scaling["default"])
        assert layer.norm == pytest.approx(peft.get_delta_weight("default").norm().item(), rel=1e-5)
        assert layer.shape == tuple(peft.weight.shape)


class TestRefused:
    def test_an_unknown_name_with_what_comes_close(self, here, refused):
        assert "Did you mean mine/0?" in refused("inspect", "mini/0")

    def test_a_trial_of_several_seeds_is_no_run(self, here, refused):
        for seed in ("seed_0", "seed_1"):
            layout.point_to(here / "multirun/mine/2" / seed / "run", here / "runs/ab12")
        assert "Name one of its runs: mine/2/seed_0, mine/2/seed_1." in refused("inspect", "mine/2")

    def test_a_file_that_was_cut_off(self, adapter, refused):
        file = adapter / WEIGHTS
        file.write_bytes(file.read_bytes()[:-100])
        assert f"{file} is damaged or was cut off" in refused("inspect", "ab12")

    def test_a_pickle(self, adapter, refused):
        torch.save({}, adapter / "adapter_model.bin")
        (adapter / WEIGHTS).unlink()
        assert "only a pickle (adapter_model.bin), which can run any code" in refused("inspect", "ab12")

    def test_settings_that_are_none(self, adapter, refused, change):
        change(peft_type="IA3")
        assert "must be a LoRA adapter's, but its peft_type is 'IA3'." in refused("inspect", "ab12")
        (adapter / "adapter_config.json").write_text("{")
        assert "adapter_config.json must be JSON, but is not" in refused("inspect", "ab12")

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"r": "four"}, "r must be a rank, a whole number of at least 1, but is 'four'. Save"),
            ({"rank_pattern": {"q_proj": 0}}, "q_proj must be a rank, a whole number of at least 1, but is 0. Save"),
            ({"lora_alpha": "x"}, "lora_alpha must be an alpha, a number, but is 'x'. Save the adapter again."),
        ],
    )
    def test_settings_of_other_types(self, here, refused, change, values, message):
        change(**values)
        assert message in refused("inspect", "ab12")

    def test_a_tokenizer_that_cannot_be_loaded(self, here, adapter, refused):
        copy = shutil.copytree(adapter, here / "alone")
        (copy / "tokenizer.json").write_text("{")
        for command in (
            ("inspect", "alone"),
            ("generate", "alone", "--prompt", "x"),
            ("merge", "alone", "--to", "out"),
        ):
            assert f"The tokenizer in {copy} cannot be loaded (" in refused(*command)
        assert not (here / "out").exists()


class TestProblems:
    @pytest.mark.slow
    def test_another_base_by_its_dimensions(self, here, refused):
        message = refused("inspect", "ab12", "--base", "embedded:smollm2_135m")
        assert "has other shapes: model.layers.0." in message
        assert "needs tensors that the file lacks" in message

    def test_another_base_by_its_names(self, here, refused):
        message = refused("inspect", "ab12", "--base", "embedded:tiny_gpt2")
        assert "it must fit its base, but embedded:tiny_gpt2 has no model.layers.0.mlp.down_proj, " in message
        assert "and 11 more. Was it trained on another base? Name that: --base PATH." in message

    def test_an_adapter_that_classifies(self, here, refused, change):
        change(task_type="SEQ_CLS")
        assert "task_type must be CAUSAL_LM, a model that continues text, but is SEQ_CLS." in refused("inspect", "ab12")

    def test_a_rank_that_the_settings_do_not_have(self, here, refused, change):
        change(r=8)
        message = refused("inspect", "ab12")
        assert "ranks must be those of adapter_config.json, but are not in model.layers.0." in message
        assert "(4, config 8)" in message

    def test_numbers_that_are_not_finite(self, here, refused, change):
        change(lambda name, tensor: tensor * float("nan") if "layers.1.mlp.up_proj.lora_B" in name else tensor)
        message = refused("inspect", "ab12")
        assert "model.layers.1.mlp.up_proj.lora_B.weight hold NaN or infinity" in message

    def test_an_adapter_that_does_nothing(self, here, refused, change):
        change(lambda name, tensor: tensor * 0 if "lora_B" in name else tensor)
        assert "every update is zero" in refused("inspect", "ab12")

    def test_a_tensor_that_is_missing(self, here, refused, change):
        change(lambda name, tensor: None if "layers.0.self_attn.q_proj.lora_A" in name else tensor)
        message = refused("inspect", "ab12")
        assert "needs tensors that the file lacks: model.layers.0.self_attn.q_proj.lora_A.weight." in message

    def test_an_init_that_would_move_the_base(self, here, refused, change):
        change(init_lora_weights="pissa_niter_4")
        assert "init_lora_weights must not change the base" in refused("inspect", "ab12")
