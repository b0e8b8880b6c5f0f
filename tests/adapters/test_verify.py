import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lowrung.adapters import merge, verify
from lowrung.adapters.difference import Evidence, Tolerance, compare, completion_logits
from lowrung.finetune import model
from lowrung.finetune.model import Base
from tests import training

TOLERANCES = {"float32": Tolerance(1e-3, 1e-6, 0.99, 1e-4), "bfloat16": Tolerance(4.0, 1e-2, 0.9, 6e-2)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    result, _ = training.fine_tune(folder)
    rows = result.held_out[:8]
    logits, labels = completion_logits(result.model, rows)
    return folder / "adapter", rows, logits, labels


@pytest.fixture
def gate(trained, tmp_path):
    """Runs the gate on an adapter folder, the trained one's copy by default."""
    adapter, rows, logits, _ = trained

    def run(folder=adapter, keep=None, **changed):
        return verify.verify(
            base=Base("embedded:tiny"),
            adapter_folder=folder,
            evidence=Evidence(rows, logits, torch.float32),
            new_tokens=4,
            scratch=tmp_path / "scratch",
            keep=keep,
            **{"merge_dtype": "bfloat16", "tolerances": TOLERANCES, **changed},
        )

    return run


def copy_of(adapter, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_plain_adapter_passes(gate, tmp_path):
    result = gate()
    assert result.failures == ()
    assert result.metrics["merge/passed"] == 1.0
    assert result.metrics["merge/max_abs_logit_diff"] < 1e-4
    assert result.metrics["merge/mean_kl"] < 1e-9
    assert result.metrics["merge/top1_agreement"] == result.metrics["merge/greedy_agreement"] == 1.0
    assert result.metrics["merge/mean_kl"] < result.metrics["merge/bfloat16/mean_kl"] < 1e-2
    assert result.metrics["merge/adapter_effect"] > 10 * result.metrics["merge/bfloat16/mean_kl"]
    assert result.measurements["merge/speedup"] > 0
    assert not (tmp_path / "scratch").exists()


@pytest.mark.slow
def test_the_merged_model_is_kept_on_request_and_serves_by_itself(gate, trained, tmp_path):
    _, rows, logits, labels = trained
    gate(keep=tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    difference = compare(logits, completion_logits(merged, rows)[0], labels)
    assert difference.violations(TOLERANCES["bfloat16"], "kept") == []
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.decode(tokenizer("one two")["input_ids"]) == "one two"


def test_fault_the_saved_scaling_is_wrong(gate, trained, tmp_path):
    folder = copy_of(trained[0], tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]}))
    result = gate(folder)
    assert result.metrics["merge/passed"] == 0.0
    assert any(failure.startswith("reloaded adapter: max |Δlogit| must be <= 0.001") for failure in result.failures)


@pytest.mark.slow
def test_fault_the_merge_scales_wrongly(gate, monkeypatch):
    def doubled(peft_model: PeftModel):
        for module in peft_model.modules():
            if isinstance(module, LoraLayer):
                module.scaling["default"] *= 2
        return peft_model.merge_and_unload()

    monkeypatch.setattr(merge, "merge", doubled)
    result = gate()
    assert result.metrics["merge/passed"] == 0.0
    assert any(failure.startswith("merged in float32: mean KL") for failure in result.failures)
    assert any(failure.startswith("merged in bfloat16: mean KL") for failure in result.failures)


def test_fault_the_adapter_is_ignored(gate, trained, tmp_path):
    """Every comparison between its copies would pass; the control and the reload see it."""
    folder = copy_of(trained[0], tmp_path)
    weights = load_file(folder / "adapter_model.safetensors")
    zeroed = {name: torch.zeros_like(w) if "lora_B" in name else w for name, w in weights.items()}
    save_file(zeroed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    result = gate(folder)
    assert any("the adapter must change the base's output more" in failure for failure in result.failures)
    assert any(failure.startswith("reloaded adapter") for failure in result.failures)


@pytest.mark.slow
def test_fault_the_tokenizer_beside_the_merged_model_is_another(gate, monkeypatch):
    def save(merged, tokenizer, folder, dtype):
        merged.to(dtype).save_pretrained(folder)
        other = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
        other.add_tokens(["Write"])  # every prompt begins with it
        other.save_pretrained(folder)

    monkeypatch.setattr(merge, "save", save)
    assert [failure.split(": ")[1] for failure in gate().failures] == [
        "the tokenizer saved beside it splits text differently"
    ] * 2


@pytest.mark.slow
def test_the_cpu_does_it_when_the_device_is_short_of_memory(gate, monkeypatch):
    places = [torch.device("cuda", 0)]
    load = AutoPeftModelForCausalLM.from_pretrained

    def short_once(*args, **kwargs):
        if places:
            places.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(*args, **kwargs)

    monkeypatch.setattr(model, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(AutoPeftModelForCausalLM, "from_pretrained", short_once)
    result = gate()
    assert (result.failures, result.place) == ((), "cpu")


def test_any_other_error_is_not_hidden(gate, tmp_path):
    with pytest.raises((OSError, ValueError)):
        gate(tmp_path / "nothing here")


def test_compare_measures_what_it_says():
    reference = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    other = torch.log(torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]))
    labels = torch.tensor([0, 1])
    difference = compare(reference, other, labels)
    log2 = torch.log(torch.tensor(2.0)).item()
    assert difference.max_abs_logit_diff == pytest.approx(log2)
    assert difference.mean_kl == pytest.approx((0.5 * log2 - 0.25 * log2) / 2)
    assert difference.top1_agreement == 0.5
    assert difference.eval_loss_delta == pytest.approx(log2 / 2)


def test_a_nan_breaks_every_rule():
    nothing = torch.full((2, 3), float("nan"))
    difference = compare(torch.zeros(2, 3), nothing, torch.tensor([0, 1]))
    assert len(difference.violations(TOLERANCES["float32"], "nan")) >= 3
