import json
import math
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.finetune.gate import reloading, verify
from lowrung.finetune.gate.case import Case, Evidence
from lowrung.finetune.gate.difference import compare, completion_logits
from lowrung.finetune.lora import merge
from lowrung.finetune.models import pretrained
from lowrung.finetune.models.ends import Ends
from tests import architectures, model_with_code, training

TOLERANCES = {
    "float32": ToleranceConf(1e-3, 1e-6, 0.99, 1e-4),
    "bfloat16": ToleranceConf(4.0, 1e-2, 0.9, 6e-2),
    "float16": ToleranceConf(0.4, 1e-4, 0.97, 3e-3),
}


TINY = training.TINY
ENDS = Ends((256,))


def train(folder, base=TINY, **kind):
    """An adapter's folder, held-out rows, and the trained model's logits and labels there."""
    result, _ = training.fine_tune(folder, base=base, **kind)
    rows = result.held_out[:8]
    logits, labels = completion_logits(result.model, rows)
    return folder / "adapter", rows, logits, labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("verify"))


@pytest.fixture
def gate(trained, tmp_path):
    """Runs the gate on an adapter folder, the trained one's copy by default."""

    def run(folder=None, keep=None, of=trained, base=TINY, merge_dtype="bfloat16", base_folder=None):
        adapter, rows, logits, _ = of
        return verify.verify(
            Case(
                base=base,
                adapter_folder=folder or adapter,
                evidence=Evidence(rows, logits, torch.float32, ENDS),
                new_tokens=4,
                merge_dtype=merge_dtype,
                tolerances=TOLERANCES,
                scratch=tmp_path / "scratch",
                base_folder=base_folder,
            ),
            keep=keep,
        )

    return run


def copy_of(adapter, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def rewrite_config(folder, **changed):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def rewrite_weights(folder, rewrite):
    file = folder / "adapter_model.safetensors"
    save_file(rewrite(load_file(file)), file, metadata={"format": "pt"})


def breaks(result, rule):
    """Whether a rule that begins so was broken, and the gate has failed by it."""
    assert result.metrics["merge/passed"] == float(result.passed)
    return not result.passed and any(failure.startswith(rule) for failure in result.failures)


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
def test_base_and_adapter_are_read_once_and_the_bases_file_stays_as_it_is(gate, monkeypatch, tmp_path):
    """What is merged into lies in memory as the base's own file, mapped; a change of it is this process's alone."""
    loads = []
    before = (pretrained.folder_of(TINY) / "model.safetensors").read_bytes()
    load, auto = pretrained.load_base, AutoPeftModelForCausalLM.from_pretrained

    def load_base(*args, **kwargs):
        loads.append("base")
        return load(*args, **kwargs)

    def load_adapter(*args, **kwargs):
        loads.append("adapter")
        return auto(*args, **kwargs)

    monkeypatch.setattr(pretrained, "load_base", load_base)
    monkeypatch.setattr(AutoPeftModelForCausalLM, "from_pretrained", load_adapter)
    first, again = gate(base_folder=tmp_path / "base"), gate(base_folder=tmp_path / "base")
    assert loads == ["base", "adapter", "adapter"]
    assert first.failures == again.failures == ()
    assert first.metrics == again.metrics
    assert (pretrained.folder_of(TINY) / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("base", "dtype", "is_shared"),
    [
        (TINY, torch.float32, True),
        (TINY, torch.bfloat16, False),
        (TINY, torch.float16, False),
        (ModelConf("embedded:tiny", quantization="int8"), torch.float32, False),
        (ModelConf("embedded:tiny", quantization="nf4"), torch.float32, False),
        (ModelConf("embedded:tiny", device_map="auto"), torch.float32, False),
    ],
)
def test_the_reloaded_adapter_is_merged_where_it_lies_on_a_plain_float32_base(
    trained, tmp_path, base, dtype, is_shared
):
    adapter, rows, logits, _ = trained
    case = Case(base, adapter, Evidence(rows, logits, dtype, ENDS), 1, "float32", TOLERANCES, tmp_path)
    assert reloading.is_on_float32(case) is is_shared


@pytest.mark.slow
def test_an_adapter_that_was_trained_in_bfloat16_is_merged_on_a_float32_base(gate, trained, tmp_path):
    """It is reloaded in bfloat16, and the reference is computed apart."""
    base = ModelConf("embedded:tiny", dtype="bfloat16")
    result, _ = training.fine_tune(tmp_path, base=base)
    rows = result.held_out[:8]
    logits, _ = completion_logits(result.model, rows)
    found = verify.verify(
        Case(
            base,
            tmp_path / "adapter",
            Evidence(rows, logits, result.dtype, ENDS),
            2,
            "float32",
            TOLERANCES,
            tmp_path / "s",
        )
    )
    assert (result.dtype, found.failures) == (torch.bfloat16, ())
    assert found.metrics["merge/mean_kl"] < 1e-9


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


@pytest.mark.slow
def test_fault_the_saved_scaling_is_wrong(gate, trained, tmp_path):
    folder = copy_of(trained[0], tmp_path)
    rewrite_config(folder, lora_alpha=2 * training.LORA["alpha"])
    assert breaks(gate(folder), "reloaded adapter: max |Δlogit| must be <= 0.001")


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


@pytest.mark.slow
def test_fault_the_adapter_is_ignored(gate, trained, tmp_path):
    """Every comparison between its copies would pass; the control and the reload see it."""
    folder = copy_of(trained[0], tmp_path)
    rewrite_weights(
        folder, lambda weights: {n: torch.zeros_like(w) if "lora_B" in n else w for n, w in weights.items()}
    )
    result = gate(folder)
    assert any("training must change the base's output more" in failure for failure in result.failures)
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


# -- what is saved -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fault_the_adapter_is_another_trials(gate, trained, tmp_path):
    other, *_ = train(tmp_path, seed=1)
    assert breaks(gate(other), "reloaded adapter: max |Δlogit|")


@pytest.mark.slow
def test_fault_a_doubled_rank_without_a_doubled_alpha(gate, tmp_path):
    """What a conversion of PiSSA gets wrong that keeps the alpha of training."""
    of = train(tmp_path, lora={"init": "pissa"})
    assert gate(of=of).failures == ()
    rewrite_config(of[0], lora_alpha=training.LORA["alpha"])
    assert breaks(gate(of=of), "reloaded adapter: max |Δlogit|")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_fault_a_module_that_was_trained_whole_is_not_saved(gate, tmp_path, module):
    of = train(tmp_path, lora={"modules_to_save": [module]})
    assert gate(of=of).failures == ()
    rewrite_weights(of[0], lambda weights: {name: w for name, w in weights.items() if module not in name})
    result = gate(of=of, keep=tmp_path / "merged")
    assert breaks(result, "reloaded adapter: it must load on its base, but KeyError")
    assert not (tmp_path / "merged").exists()


@pytest.mark.slow
def test_fault_the_trained_biases_are_not_saved(gate, tmp_path):
    base = architectures.base("qwen2")
    of = train(tmp_path, base, lora={"bias": "all"})
    assert gate(of=of, base=base).failures == ()
    rewrite_weights(of[0], lambda weights: {name: w for name, w in weights.items() if not name.endswith(".bias")})
    assert breaks(gate(of=of, base=base), "reloaded adapter: max |Δlogit|")


@pytest.mark.slow
@pytest.mark.parametrize("named", [{"base_model_name_or_path": "elsewhere"}, {"revision": "v2"}])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_fault_the_adapter_names_another_base(gate, trained, tmp_path, named, quantization):
    """No output shows it where the gate puts the adapter on the right base by itself."""
    folder = copy_of(trained[0], tmp_path)
    rewrite_config(folder, **named)
    result = gate(folder, base=ModelConf("embedded:tiny", quantization=quantization))
    assert breaks(result, f"saved adapter: it must name its base as {pretrained.folder_of(TINY)}, but names ")


@pytest.mark.slow
def test_fault_the_base_has_changed_under_its_name(gate, tmp_path):
    shutil.copytree(pretrained.folder_of(TINY), tmp_path / "base")
    base = ModelConf(str(tmp_path / "base"), dtype="float32")
    of = train(tmp_path, base)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.norm.weight"] *= 1.05
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    assert breaks(gate(of=of, base=base), "reloaded adapter: max |Δlogit|")


@pytest.mark.slow
def test_fault_the_adapters_tokenizer_is_not_saved(gate, trained, tmp_path):
    folder = copy_of(trained[0], tmp_path)
    for file in folder.iterdir():
        if file.name.startswith(("tokenizer", "chat_template")):
            file.unlink()
    (failure,) = gate(folder).failures
    assert failure.startswith("saved adapter: its tokenizer must be saved beside it, but cannot be loaded")


@pytest.mark.slow
def test_fault_the_ends_of_answers_are_not_saved(gate, trained, tmp_path, monkeypatch):
    folder = copy_of(trained[0], tmp_path)
    (folder / "generation_config.json").unlink()
    write = Ends.write
    monkeypatch.setattr(Ends, "write", lambda self, folder: write(Ends((257,)), folder))
    wrong = "generation_config.json must end answers at <|im_end|>, but ends them at"
    assert list(gate(folder).failures) == [
        f"saved adapter: {wrong} nothing",
        *(f"merged in {dtype}: {wrong} <|pad|>" for dtype in ("float32", "bfloat16")),
    ]


# -- what is merged ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fault_the_merge_leaves_the_adapter_out(gate, monkeypatch):
    monkeypatch.setattr(merge, "merge", lambda peft_model: peft_model.unload())
    result = gate()
    assert breaks(result, "merged in float32: training must change the base's output more")
    assert breaks(result, "merged in bfloat16: mean KL")


@pytest.mark.slow
def test_fault_the_merge_is_in_bfloat16_where_float32_was_promised(gate, monkeypatch):
    monkeypatch.setattr(merge, "merge", lambda peft_model: peft_model.to(torch.bfloat16).merge_and_unload().float())
    assert breaks(gate(), "merged in float32: max |Δlogit|")


@pytest.mark.slow
@pytest.mark.parametrize(("stored", "promised"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_fault_weights_are_stored_in_another_precision(gate, monkeypatch, stored, promised):
    save = merge.save
    monkeypatch.setattr(
        merge, "save", lambda model, tokenizer, folder, dtype: save(model, tokenizer, folder, getattr(torch, stored))
    )
    failure = f"merged in {promised}: all weights must be stored in it, but some are in {stored}"
    assert breaks(gate(), failure)


def weakened(adapter, folder):
    """A copy of an adapter whose update is less than half a step of bfloat16 at most of the base's weights."""
    copy = copy_of(adapter, folder)
    rewrite_weights(copy, lambda weights: {n: w * (1e-3 if "lora_B" in n else 1) for n, w in weights.items()})
    return copy


@pytest.mark.slow
def test_an_update_that_bfloat16_cannot_hold_fails_with_the_remedy(gate, trained, tmp_path):
    """float16, the remedy, can hold it."""
    folder = weakened(trained[0], tmp_path)
    weak = PeftModel.from_pretrained(pretrained.load_base(TINY, torch.device("cpu")), str(folder)).eval()
    of = (folder, trained[1], *completion_logits(weak, trained[1]))
    failures = gate(of=of).failures
    assert [failure.split(": ")[0] for failure in failures] == ["merged in bfloat16"] * len(failures)
    assert failures[-1].endswith(
        "; bfloat16's grid is too coarse for this update: keep the adapter unmerged, or take"
        " verify.merge_dtype=float16 (a finer grid) or verify.merge_dtype=float32"
    )
    assert gate(of=of, merge_dtype="float16").failures == ()


@pytest.mark.slow
def test_a_model_beyond_the_range_of_float16_fails_with_the_remedy(gate, tmp_path):
    """As is said of Gemma 3. The base is the same function as before: what one layer gains, the next one loses."""
    shutil.copytree(pretrained.folder_of(TINY), tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] *= 2.0**24
    weights["model.layers.0.mlp.down_proj.weight"] *= 2.0**-24
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    base = ModelConf(str(tmp_path / "base"), dtype="float32")
    of = train(tmp_path, base, lora={"target_modules": "attention"})
    assert list(gate(of=of, base=base, merge_dtype="float16").failures) == [
        "merged in float16: every logit must be finite, but some are not; float16 ends at 65504, and this model goes"
        " beyond: take verify.merge_dtype=float32 or verify.merge_dtype=bfloat16"
    ]
    assert gate(of=of, base=base, merge_dtype="bfloat16").failures == ()


@pytest.mark.slow
@pytest.mark.parametrize("has", [{}, {"avx512_fp16": True}])
def test_a_model_whose_numbers_alone_are_beyond_float16_fails_too(gate, tmp_path, monkeypatch, has):
    """All weights are finite in float16; what a layer gives is not. A CPU without products for float16 sees it too."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    shutil.copytree(pretrained.folder_of(TINY), tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    up = weights["model.layers.0.mlp.up_proj.weight"]
    factor = 2.0 ** math.floor(math.log2(6e4 / up.abs().max().item()))
    up *= factor
    weights["model.layers.0.mlp.down_proj.weight"] /= factor
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    base = ModelConf(str(tmp_path / "base"), dtype="float32")
    of = train(tmp_path, base, lora={"target_modules": "attention"})
    result = gate(of=of, base=base, merge_dtype="float16")
    assert breaks(result, "merged in float16: every logit must be finite, but some are not")
    assert result.computed_in == {"float32": "float32", "float16": "float16" if has else "float32"}


@pytest.mark.slow
def test_no_precision_is_blamed_for_what_float32_has_too(gate, monkeypatch):
    monkeypatch.setattr(merge, "merge", lambda peft_model: peft_model.unload())
    failures = gate().failures
    assert any(failure.startswith("merged in bfloat16: mean KL") for failure in failures)
    assert not any("verify.merge_dtype" in failure for failure in failures)


@pytest.mark.slow
def test_fault_the_tokenizer_is_not_saved_beside_the_merged_model(gate, monkeypatch):
    monkeypatch.setattr(merge, "save", lambda model, tokenizer, folder, dtype: model.to(dtype).save_pretrained(folder))
    result = gate()
    assert breaks(result, "merged in float32: ")
    assert len(result.failures) == 2
    assert all("tokenizer" in failure for failure in result.failures)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # what the test is about
def test_fault_config_ties_a_trained_head_to_the_embedding(gate, tmp_path, monkeypatch):
    base = architectures.base("tied llama")
    of = train(tmp_path, base, lora={"modules_to_save": ["lm_head"]})
    assert gate(of=of, base=base).failures == ()
    save = merge.save

    def tied(merged, tokenizer, folder, dtype):
        merged.config.tie_word_embeddings = True
        save(merged, tokenizer, folder, dtype)

    monkeypatch.setattr(merge, "save", tied)
    assert list(gate(of=of, base=base).failures) == [
        f"merged in {dtype}: config.json must say that the head is not tied to the embedding, but says that it is"
        for dtype in ("float32", "bfloat16")
    ]


@pytest.mark.slow
def test_fault_the_merge_unties_the_head(gate, tmp_path, monkeypatch):
    """No output shows it: the model is larger by its embedding, and would go its own ways when trained on."""
    base = architectures.base("tied llama")
    of = train(tmp_path, base)
    assert gate(of=of, base=base).failures == ()

    def untied(peft_model):
        merged = peft_model.merge_and_unload()
        merged.config.tie_word_embeddings = False
        merged.lm_head.weight = torch.nn.Parameter(merged.lm_head.weight.detach().clone())
        return merged

    monkeypatch.setattr(merge, "merge", untied)
    assert list(gate(of=of, base=base).failures) == [
        f"merged in {dtype}: the head must be tied to the embedding, as in the base, but is not"
        for dtype in ("float32", "bfloat16")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_what_merging_into_the_quantised_base_would_cost_is_recorded(gate, tmp_path, quantization):
    base = ModelConf("embedded:tiny", quantization=quantization)
    result, _ = training.fine_tune(tmp_path, base=base)
    rows = result.held_out[:8]
    gate = verify.verify(
        Case(
            base=base,
            adapter_folder=tmp_path / "adapter",
            evidence=Evidence(rows, completion_logits(result.model, rows)[0], result.dtype, result.ends),
            new_tokens=1,
            merge_dtype="float32",
            tolerances=TOLERANCES,
            scratch=tmp_path / "scratch",
        )
    )
    assert gate.failures == ()
    assert gate.metrics["merge/requantized/mean_kl"] > 1e5 * gate.metrics["merge/mean_kl"]
    assert gate.metrics["merge/requantized/max_abs_logit_diff"] > 100 * gate.metrics["merge/max_abs_logit_diff"]


# -- the gate itself ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_cpu_does_it_when_the_device_is_short_of_memory(gate, monkeypatch):
    gpus = [torch.device("cuda", 0)]
    load = pretrained.load_base

    def short_once(*args, **kwargs):
        if gpus:
            gpus.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(*args, **kwargs)

    monkeypatch.setattr(pretrained, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(pretrained, "load_base", short_once)
    result = gate()
    assert (result.failures, result.device) == ((), "cpu")


@pytest.mark.slow
def test_a_base_with_code_of_its_own_passes_where_it_is_trusted(gate, tmp_path, monkeypatch):
    base = ModelConf(str(model_with_code.make(tmp_path, monkeypatch)), dtype="float32", trust_remote_code=True)
    of = train(tmp_path, base)
    assert gate(of=of, base=base, keep=tmp_path / "merged").failures == ()
    assert (tmp_path / "merged" / "mine.py").is_file()


def test_any_other_error_is_not_hidden(gate, tmp_path):
    with pytest.raises((OSError, ValueError)):
        gate(tmp_path / "nothing here")


def test_compare_computes_its_metrics():
    reference = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    other = torch.log(torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]))
    labels = torch.tensor([0, 1])
    difference = compare(reference, other, labels)
    log2 = torch.log(torch.tensor(2.0)).item()
    assert difference.max_abs_logit_diff == pytest.approx(log2)
    assert difference.mean_kl == pytest.approx((0.5 * log2 - 0.25 * log2) / 2)
    assert difference.top1_agreement == 0.5
    assert difference.eval_loss_delta == pytest.approx(log2 / 2)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_logits_that_are_not_finite_are_one_failure(value):
    other = torch.zeros(2, 3)
    other[0, 0] = float(value)
    difference = compare(torch.zeros(2, 3), other, torch.tensor([0, 1]))
    assert difference.violations(TOLERANCES["float32"], "it") == ["it: every logit must be finite, but some are not"]
    assert difference.control_failures(1.0, "it") == []


@pytest.mark.filterwarnings("error:fan_in_fan_out")
def test_an_adapter_that_saw_linear_layers_is_put_on_conv1d_without_a_word(tmp_path):
    """As quantised GPT-2 is trained, whose dequantised layers lie the other way round."""
    base = ModelConf("embedded:tiny_gpt2")
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    random = get_peft_model(pretrained.load_base(base, torch.device("cpu")), config)
    random.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fan_in_fan_out": False}))
    ids = torch.arange(8)[None]
    adapted = merge.with_adapter(pretrained.load_base(base, torch.device("cpu")), tmp_path)
    with torch.no_grad():
        assert torch.equal(adapted(input_ids=ids).logits, random.eval()(input_ids=ids).logits)
