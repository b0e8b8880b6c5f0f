"""A registered model's loader answers as lowrung does, whatever the base and the format of prompts."""

import json
import shutil

import pandas
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from lowrung.adapters import export, pyfunc_loader
from lowrung.adapters.answers import PromptedModel, answers, loader_settings
from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.errors import UsageError
from lowrung.finetune.data.template import Format
from lowrung.finetune.lora import merge
from lowrung.finetune.models import pretrained
from lowrung.finetune.models.ends import Ends
from tests import training

PROMPTS = ["Write 47 in words.", "Write 8 in words.", "a line\n", "The river had risen overnight."]


def random_adapter(base, folder, **settings):
    """An adapter that changes its base's answers."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **settings
    )
    model = get_peft_model(pretrained.load_base(base, torch.device("cpu")), config)
    model.save_pretrained(folder)
    pretrained.load_tokenizer(pretrained.folder_of(base)).save_pretrained(folder)


def loaded_answers(folder, settings):
    """As MLflow loads and asks the model, with settings that went through JSON."""
    answering = pyfunc_loader._load_pyfunc(str(folder), json.loads(json.dumps(settings)))
    return answering.predict(pandas.DataFrame(PROMPTS), {"new_tokens": 8})


def answers_of(model):
    (texts,) = answers([model], PROMPTS, new_tokens=8, batch_size=1)
    return texts


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
def test_an_adapter_answers_as_in_lowrung(tmp_path, base, lora, format):
    random_adapter(base, tmp_path, **lora)
    one = PromptedModel(base, tmp_path, Format(format))
    expected = answers_of(one)
    assert expected != answers_of(PromptedModel(base, format=Format(format)))
    assert loaded_answers(tmp_path, loader_settings(one)) == expected


@pytest.mark.slow
def test_added_tokens_are_read_and_generated(tmp_path):
    base = ModelConf("embedded:tiny", added_tokens=["Write", "seventy", "<think>"])
    training.fine_tune(tmp_path, base=base, max_steps=3, eval_steps=3)
    one = PromptedModel(base, tmp_path / "adapter")
    assert loaded_answers(tmp_path / "adapter", loader_settings(one)) == answers_of(one)


SETTINGS = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "temperature": 0.7, "do_sample": True, "num_beams": 3}


@pytest.mark.slow
def test_answers_end_alike_everywhere_whatever_the_base_says_besides(tmp_path):
    """At a token and at a text: of an adapter, as MLflow loads it too, and of the merged model, which keeps more."""
    plain = ModelConf("embedded:tiny")
    random_adapter(plain, tmp_path / "adapter")
    whole = answers_of(PromptedModel(plain, tmp_path / "adapter"))
    tokenizer = pretrained.load_tokenizer(tmp_path / "adapter")
    one_token, text = tokenizer(whole[0])["input_ids"][3], whole[1][2:4]
    ends = Ends((256, one_token), text)
    short = [ends.answer(tokenizer, tokenizer(answer)["input_ids"]) for answer in whole]
    assert all(map(str.startswith, whole[:2], short[:2]))
    assert short[0] != whole[0]
    assert short[1] != whole[1]
    shutil.copytree(pretrained.folder_of(plain), tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps({**SETTINGS, "eos_token_id": 256}))
    one = PromptedModel(ModelConf(str(tmp_path / "base")), tmp_path / "adapter")
    assert answers_of(one) == whole
    ends.write(tmp_path / "adapter")
    assert answers_of(one) == loaded_answers(tmp_path / "adapter", loader_settings(one)) == short
    export.export(
        base=one.base,
        adapter=tmp_path / "adapter",
        folder=tmp_path / "merged",
        dtype="float32",
        format=Format(),
        rows=[],
        tolerance=ToleranceConf(1e-3, 1e-6, 0.99, 1e-4),
        card=lambda merged: "",
    )
    merged = PromptedModel(ModelConf(str(tmp_path / "merged")))
    assert answers_of(merged) == loaded_answers(tmp_path / "merged", loader_settings(merged)) == short
    kept = GenerationConfig.from_pretrained(tmp_path / "merged")
    assert kept.eos_token_id == [*ends.tokens]
    assert kept.to_dict().items() >= SETTINGS.items()


@pytest.mark.slow
def test_a_base_may_be_elsewhere(tmp_path):
    base = training.TINY
    random_adapter(base, tmp_path / "adapter")
    one = PromptedModel(base, tmp_path / "adapter")
    shutil.copytree(pretrained.folder_of(base), tmp_path / "base")
    settings = {**loader_settings(one), "base": str(tmp_path / "base")}
    assert loaded_answers(tmp_path / "adapter", settings) == answers_of(one)


@pytest.mark.slow
def test_a_whole_model_is_its_own_base(tmp_path):
    base = ModelConf("embedded:tiny")
    random_adapter(base, tmp_path / "adapter")
    one = PromptedModel(base, tmp_path / "adapter")
    merged = merge.merge(pyfunc_loader._load_pyfunc(str(one.adapter), loader_settings(one)).get_raw_model())
    merge.save(merged, pretrained.load_tokenizer(tmp_path / "adapter"), tmp_path / "merged", torch.float32)
    settings = loader_settings(PromptedModel(ModelConf(str(tmp_path / "merged"))))
    assert "base" not in settings
    assert loaded_answers(tmp_path / "merged", settings) == answers_of(one)


def test_an_answer_ends_where_the_context_does_and_a_note_says_so(capsys):
    gpt2 = PromptedModel(
        ModelConf("embedded:tiny_gpt2"), format=Format("plain")
    )  # which has no position beyond its 1024
    near = "x" * 1020
    ((answer, other),) = answers([gpt2], [near, "Write 47 in words."], new_tokens=8)
    noted = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    end = "takes 1021 of the 1024 tokens that embedded:tiny_gpt2 reads, so its answer ends after 3 at the latest"
    assert len(noted) == 1
    assert noted[0].endswith(end)
    folder = pretrained.locate("embedded:tiny_gpt2")
    loader = pyfunc_loader._load_pyfunc(str(folder), loader_settings(gpt2))
    asked = pandas.DataFrame([near, "Write 47 in words."])
    assert loader.predict(asked, {"new_tokens": 8}) == [answer, other]
    with pytest.raises(UsageError, match=r"must leave room for an answer, but .* takes 1024 of the 1024 tokens"):
        answers([gpt2], ["x" * 1023], new_tokens=8)
    with pytest.raises(ValueError, match="takes 1024 of 1024 tokens"):
        loader.predict(pandas.DataFrame(["x" * 1023]))
