"""What goes with a registered model answers as lowrung does, whatever the base and however prompts are written down."""

import json
import shutil

import pandas
import pytest
import torch
from peft import LoraConfig, get_peft_model

from lowrung.adapters import pyfunc_loader, serving
from lowrung.adapters.answers import Asked, answers
from lowrung.config.schema import ModelConf
from lowrung.finetune.lora import merge
from lowrung.finetune.models import pretrained
from tests import training

PROMPTS = ["Write 47 in words.", "Write 8 in words.", "a line\n", "The river had risen overnight."]


def random_adapter(base, folder, **settings):
    """An adapter that changes what its base says."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **settings
    )
    model = get_peft_model(pretrained.load_base(base, torch.device("cpu")), config)
    model.save_pretrained(folder)
    pretrained.load_tokenizer(pretrained.folder_of(base)).save_pretrained(folder)


def served_answers(folder, settings):
    """As MLflow asks, with settings that were written down and read again."""
    answering = pyfunc_loader._load_pyfunc(str(folder), json.loads(json.dumps(settings)))
    return answering.predict(pandas.DataFrame(PROMPTS), {"new_tokens": 8})


def said_by(one):
    (said,) = answers([one], PROMPTS, new_tokens=8, batch_size=1)
    return said


@pytest.mark.parametrize(
    ("base", "lora", "format"),
    [
        (ModelConf("embedded:tiny"), {}, "auto"),
        (ModelConf("embedded:tiny"), {}, "plain"),
        (ModelConf("embedded:tiny", dtype="bfloat16", attn_implementation="eager"), {"use_rslora": True}, "chat"),
        (ModelConf("embedded:tiny_gpt2"), {"use_dora": True, "fan_in_fan_out": True}, "plain"),
        pytest.param(ModelConf("embedded:tiny", quantization="nf4"), {}, "auto", marks=pytest.mark.slow),
        pytest.param(
            ModelConf("embedded:tiny", quantization="int8", device_map="auto"), {}, "auto", marks=pytest.mark.slow
        ),
    ],
    ids=["tiny", "plain", "bfloat16", "gpt2", "nf4", "int8"],
)
@pytest.mark.slow
def test_an_adapter_answers_as_lowrung_asks_it(tmp_path, base, lora, format):
    random_adapter(base, tmp_path, **lora)
    one = Asked(base, tmp_path, format)
    said = said_by(one)
    assert said != said_by(Asked(base, format=format))
    assert served_answers(tmp_path, serving.settings(one)) == said


def test_tokens_that_were_added_are_read_and_said(tmp_path):
    base = ModelConf("embedded:tiny", added_tokens=["Write", "seventy", "<think>"])
    training.fine_tune(tmp_path, base=base, max_steps=3, eval_steps=3)
    one = Asked(base, tmp_path / "adapter")
    assert served_answers(tmp_path / "adapter", serving.settings(one)) == said_by(one)


def test_a_base_may_be_elsewhere(tmp_path):
    base = ModelConf("embedded:tiny")
    random_adapter(base, tmp_path / "adapter")
    one = Asked(base, tmp_path / "adapter")
    shutil.copytree(pretrained.folder_of(base), tmp_path / "base")
    settings = {**serving.settings(one), "base": str(tmp_path / "base"), "dtype": "float32"}
    assert served_answers(tmp_path / "adapter", settings) == said_by(one)


def test_a_whole_model_is_its_own_base(tmp_path):
    base = ModelConf("embedded:tiny")
    random_adapter(base, tmp_path / "adapter")
    one = Asked(base, tmp_path / "adapter")
    merged = merge.merge(pyfunc_loader._load_pyfunc(str(one.adapter), serving.settings(one)).get_raw_model())
    merge.save(merged, pretrained.load_tokenizer(tmp_path / "adapter"), tmp_path / "merged", torch.float32)
    settings = serving.settings(Asked(ModelConf(str(tmp_path / "merged"))))
    assert "base" not in settings
    assert served_answers(tmp_path / "merged", settings) == said_by(one)
