import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained, soundness
from tests import model_with_code

CPU = torch.device("cpu")
TINIES = ("embedded:tiny", "embedded:tiny_gpt2")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("path", TINIES)
@pytest.mark.parametrize("attention", [None, "eager", "sdpa"])
def test_embedded_models_have_no_problems(path, attention):
    assert soundness.problems(ModelConf(path, attn_implementation=attention, device_map="auto")) == []


def test_a_folder_as_save_pretrained_leaves_it_is_fine(copy):
    assert soundness.problems(ModelConf(str(copy))) == []


def test_all_problems_come_at_once(copy, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    base = ModelConf(str(copy), revision="v1", attn_implementation="flash_attention_2")
    flash, revision, weights = soundness.problems(base)
    assert "model.attn_implementation=flash_attention_2 needs the package flash_attn and an NVIDIA GPU" in flash
    assert f"model.revision=v1 needs a hub model, but model.path={copy} is not one" in revision
    assert "only pickles (pytorch_model.bin)" in weights
    assert "`AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)`" in weights


def test_a_path_that_is_no_folder_is_a_problem(tmp_path):
    (problem,) = soundness.problems(ModelConf(str(tmp_path / "nothing")))
    assert "does not exist" in problem


def test_weights_that_are_absent(copy):
    (copy / "model.safetensors").unlink()
    assert soundness.problems(ModelConf(str(copy))) == [
        f"model.path must have its weights as safetensors, but {copy} has none."
    ]


def test_weights_that_are_quantised_already(copy):
    change_config(copy, quantization_config={"quant_method": "gptq", "bits": 4})
    (problem,) = soundness.problems(ModelConf(str(copy)))
    assert f"must have weights that are not quantised, but those in {copy} are (gptq)" in problem


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("{", False),
        ('{"temperature": 0.6, "do_sample": false, "unknown": [1]}', False),
        ('{"max_new_tokens": -1}', True),
        ('{"cache_implementation": "none"}', True),
        ("[]", True),
    ],
)
def test_a_generation_config_that_transformers_refuses(copy, text, refused):
    (copy / "generation_config.json").write_text(text)
    found = soundness.problems(ModelConf(str(copy)))
    rule = "model.path must have a generation_config.json that transformers can load, or none, but that in "
    assert [problem.startswith(rule) for problem in found] == [True] * refused
    if not found:
        pretrained.load_base(ModelConf(str(copy)), CPU)


@pytest.mark.parametrize(("text", "words"), [("{", "is not: Expecting"), ("[]", "that is a mapping")])
def test_a_broken_config(copy, text, words):
    (copy / "config.json").write_text(text)
    (problem,) = soundness.problems(ModelConf(str(copy)))
    assert words in problem
    assert str(copy / "config.json") in problem


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "no_such", "architectures": None}, "no_such"),
        ({"num_attention_heads": 7}, "not a multiple of the number of attention heads"),
        ({"hidden_size": "wide"}, "'wide'"),
    ],
)
def test_a_config_that_no_model_can_be_built_from(copy, changes, words):
    change_config(copy, **changes)
    (problem,) = soundness.problems(ModelConf(str(copy)))
    assert words in problem


def encoder() -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )


def encoder_decoder() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2))


@pytest.mark.parametrize("make", [encoder, encoder_decoder])
def test_models_that_do_not_continue_text_are_refused(copy, make):
    other = make()
    (copy / "model.safetensors").unlink()
    other.save_pretrained(copy)
    assert soundness.problems(ModelConf(str(copy))) == [
        "model.path must be a causal language model, which continues text, but config.json in"
        f" {copy} names {type(other).__name__}."
    ]


def test_an_attention_that_the_model_does_not_have():
    (problem,) = soundness.problems(ModelConf("embedded:tiny_gpt2", attn_implementation="flex_attention"))
    assert "GPT2LMHeadModel does not support" in problem


def test_a_tokenizer_that_is_absent(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    (problem,) = soundness.problems(ModelConf(str(copy)))
    assert f"model.path must have a tokenizer, but none can be loaded from {copy}" in problem


# -- code that comes with a model --------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    return model_with_code.make(tmp_path, monkeypatch)


def test_foreign_code_does_not_run_unasked(foreign):
    (problem,) = soundness.problems(ModelConf(str(foreign)))
    assert "runs only with model.trust_remote_code=true" in problem
    for load in (pretrained.skeleton, lambda base: pretrained.load_base(base, CPU)):
        with pytest.raises(ValueError, match="trust_remote_code"):
            load(ModelConf(str(foreign)))
    assert not (foreign.parent / "ran").exists()


def test_foreign_code_runs_where_it_is_trusted(foreign):
    base = ModelConf(str(foreign), trust_remote_code=True)
    assert soundness.problems(base) == []
    assert (foreign.parent / "ran").exists()
    assert type(pretrained.skeleton(base)).__name__ == "MineForCausalLM"
    ids = torch.arange(9)[None]
    ours = pretrained.load_base(ModelConf("embedded:tiny"), CPU)
    with torch.no_grad():
        assert torch.equal(pretrained.load_base(base, CPU)(input_ids=ids).logits, ours(input_ids=ids).logits)


def test_code_beside_a_known_architecture_is_not_needed(copy):
    change_config(copy, auto_map={"AutoModelForCausalLM": "mine.MineForCausalLM"})
    assert soundness.problems(ModelConf(str(copy))) == []
    assert type(pretrained.load_base(ModelConf(str(copy)), CPU)).__name__ == "LlamaForCausalLM"
