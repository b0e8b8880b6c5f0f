import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lowrung.config.schema import LoraConf, ModelConf
from lowrung.finetune.gate import difference, forgetting
from lowrung.finetune.lora import adapter
from lowrung.finetune.models import pretrained
from tests import training

TINY = ModelConf("embedded:tiny")
CPU = torch.device("cpu")


def measure(folder, base=TINY, is_adapter=True, rows=8, kept=None):
    with tempfile.TemporaryDirectory() as own:
        return forgetting.measure(
            base=base,
            folder=folder,
            is_adapter=is_adapter,
            rows=rows,
            base_folder=kept or Path(own),
            device=CPU,
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forgetting")
    training.fine_tune(folder, learning_rate=5e-2)
    return folder / "adapter"


def test_a_model_that_knew_nothing_gains(trained):
    """`tiny` has random weights: to learn any English makes it better at all English."""
    found = measure(trained)
    assert found["forget/loss_delta"] == found["forget/loss"] - found["forget/base_loss"]
    assert found["forget/loss_delta"] < -0.1
    assert measure(trained) == found


def test_the_bases_loss_is_computed_once_for_the_same_paragraphs(trained, tmp_path, monkeypatch):
    computed = []

    def mean_loss(model, rows):
        computed.append(len(rows))
        return difference.mean_loss(model, rows)

    monkeypatch.setattr(forgetting, "mean_loss", mean_loss)
    assert measure(trained, rows=2, kept=tmp_path) == measure(trained, rows=2, kept=tmp_path)
    assert computed == [2, 2, 2]  # base and adapter, adapter
    measure(trained, rows=3, kept=tmp_path)
    assert computed[3:] == [3, 3]


def test_a_model_that_is_disturbed_loses(trained, tmp_path):
    weights = load_file(trained / "adapter_model.safetensors")
    shutil.copytree(trained, tmp_path / "adapter")
    noise = torch.Generator().manual_seed(0)
    disturbed = {name: torch.randn(w.shape, generator=noise) for name, w in weights.items()}
    save_file(disturbed, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    assert measure(tmp_path / "adapter")["forget/loss_delta"] > 0.1


def test_an_adapter_that_does_nothing_forgets_nothing(tmp_path):
    model = pretrained.load_base(TINY, CPU)
    adapted = adapter.attach(model, LoraConf(r=4, alpha=8))
    adapter.save(
        adapted, pretrained.load_tokenizer(pretrained.folder_of(TINY)), tmp_path, origin=pretrained.origin_of(TINY)
    )
    assert measure(tmp_path)["forget/loss_delta"] == 0


def test_the_loss_is_that_of_transformers(trained):
    """One paragraph, so that a mean of means is the mean."""
    (text,) = forgetting.paragraphs(1)
    tokenizer, model = (
        pretrained.load_tokenizer(pretrained.folder_of(TINY)),
        AutoModelForCausalLM.from_pretrained(pretrained.folder_of(TINY)),
    )
    ids = torch.tensor([tokenizer(text)["input_ids"][: forgetting.MAX_TOKENS]])
    with torch.no_grad():
        expected = model(input_ids=ids, labels=ids).loss.item()
    assert measure(trained, rows=1)["forget/base_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_model_that_was_trained_whole(tmp_path):
    training.fine_tune(tmp_path, is_full=True)
    found = measure(tmp_path / "adapter", is_adapter=False)
    assert found["forget/loss"] != found["forget/base_loss"]
    assert measure(pretrained.folder_of(TINY), is_adapter=False)["forget/loss_delta"] == 0


def test_a_quantised_base(trained):
    plain, quantised = measure(trained), measure(trained, base=ModelConf("embedded:tiny", quantization="nf4"))
    assert quantised["forget/base_loss"] == pytest.approx(plain["forget/base_loss"], rel=0.05)
    assert quantised["forget/loss_delta"] == pytest.approx(plain["forget/loss_delta"], abs=0.2)


def test_paragraphs_are_prose_and_the_first_stay_the_same():
    some = forgetting.paragraphs(48)
    assert len(set(some)) == 48
    assert some[:8] == forgetting.paragraphs(8)
    assert all(len(text) > 150 and "::=" not in text for text in some)
    everything = forgetting.paragraphs(10_000)
    assert 100 < len(everything) < 10_000
    assert len(set(everything)) == len(everything)
