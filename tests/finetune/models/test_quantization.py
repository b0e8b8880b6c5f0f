import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained, quantization, soundness

CPU = torch.device("cpu")
TINIES = ("embedded:tiny", "embedded:tiny_gpt2")
KINDS = ("int8", "nf4")
IDS = torch.randint(0, 256, (4, 48), generator=torch.Generator().manual_seed(0))


def logits(loaded):
    """Of shape (4, 48, vocabulary); their standard deviation is 0.8."""
    with torch.no_grad():
        return loaded(input_ids=IDS.to(loaded.device)).logits.float().cpu()


def with_exact_activations(loaded):
    """The model with its 8-bit layers as they compute in training: in evaluation they round activations as well."""
    for module in loaded.modules():
        if type(module).__name__ == "Linear8bitLt":
            module.train()
    return loaded


def quantizable(loaded):
    """Its linear layers but for the head."""
    head = loaded.get_output_embeddings()
    return {n: m for n, m in loaded.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head}


@pytest.mark.parametrize("path", TINIES)
@pytest.mark.parametrize(("kind", "most"), [("int8", 0.3), ("nf4", 0.2)])
def test_the_layers_take_a_fraction_of_the_memory(path, kind, most):
    # Measured: 0.25 (int8) and 0.125 (nf4) of the layers' float32 weights; embeddings, norms and head stay as they are.
    plain: Any = pretrained.load_base(ModelConf(path), CPU)
    quantized: Any = pretrained.load_base(ModelConf(path, quantization=kind), CPU)
    layers = quantizable(plain)
    ours = quantized.get_submodule
    few = sum(ours(name).weight.numel() * ours(name).weight.element_size() for name in layers)
    assert few < most * sum(4 * layer.weight.numel() for layer in layers.values())
    assert quantized.get_memory_footprint() < plain.get_memory_footprint()
    assert quantized.get_output_embeddings().weight.dtype is torch.float32
    assert type(quantized.get_output_embeddings()) is nn.Linear


# Measured, of either model and both dtypes: mean differences of 0.013 to 0.017 (int8) and 0.12 to 0.17 (nf4).
@pytest.mark.parametrize("path", TINIES)
@pytest.mark.parametrize(("kind", "least", "most"), [("int8", 0.001, 0.04), ("nf4", 0.04, 0.35)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_logits_are_near_those_of_the_plain_model(path, kind, least, most, dtype):
    quantized = pretrained.load_base(ModelConf(path, dtype=dtype, quantization=kind), CPU)
    difference = (logits(quantized) - logits(pretrained.load_base(ModelConf(path), CPU))).abs().mean()
    assert least < difference < most


@pytest.mark.slow
@pytest.mark.parametrize("path", TINIES)
@pytest.mark.parametrize("kind", KINDS)
def test_loading_twice_gives_the_same_to_the_bit(path, kind):
    one, two = (pretrained.load_base(ModelConf(path, quantization=kind), CPU) for _ in range(2))
    assert torch.equal(logits(one), logits(two))


def test_double_quantization_is_a_setting():
    def held(double):
        layer: Any = pretrained.load_base(
            ModelConf("embedded:tiny", quantization="nf4", double_quantization=double), CPU
        ).get_submodule("model.layers.0.self_attn.q_proj")
        return layer.weight.quant_state.nested

    assert held(True)
    assert not held(False)


# Measured: at most 2.4e-6 (int8) and 0 (nf4), of logits up to 3.7, whether or not it was evaluated before.
@pytest.mark.parametrize("path", TINIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("was_evaluated", [False, True])
def test_dequantised_it_computes_the_same(path, kind, was_evaluated):
    base = ModelConf(path, quantization=kind)
    expected = logits(with_exact_activations(pretrained.load_base(base, CPU)))
    quantized = pretrained.load_base(base, CPU)
    if was_evaluated:
        logits(quantized)
    ordinary = quantization.dequantized(quantized, torch.float32)
    assert (logits(ordinary) - expected).abs().max() < 5e-5


# Measured: 0.076 at most, 0.012 on average; activations are rounded to 8 bits too, as LLM.int8() does.
@pytest.mark.parametrize("path", TINIES)
def test_dequantised_int8_is_near_what_it_computes_in_evaluation(path):
    quantized = pretrained.load_base(ModelConf(path, quantization="int8"), CPU)
    before = logits(quantized)
    assert (logits(quantization.dequantized(quantized, torch.float32)) - before).abs().max() < 0.25


@pytest.mark.parametrize("path", TINIES)
@pytest.mark.parametrize("kind", KINDS)
def test_dequantised_it_is_an_ordinary_model_that_can_be_saved(path, kind, tmp_path):
    quantized = pretrained.load_base(ModelConf(path, quantization=kind), CPU)
    ordinary = quantization.dequantized(quantized, torch.float32)
    before = logits(ordinary)
    kinds = {name: type(layer) for name, layer in quantizable(pretrained.load_base(ModelConf(path), CPU)).items()}
    assert {name: type(layer) for name, layer in quantizable(ordinary).items()} == kinds
    assert {parameter.dtype for parameter in ordinary.parameters()} == {torch.float32}
    assert not getattr(ordinary.config, "quantization_config", None)
    ordinary.save_pretrained(tmp_path)
    assert torch.equal(logits(pretrained.load_model(tmp_path, torch.float32, CPU)), before)


def test_an_ordinary_model_is_only_cast():
    plain: Any = pretrained.load_base(ModelConf("embedded:tiny"), CPU)
    weight = plain.get_submodule("model.layers.0.self_attn.q_proj").weight.detach().clone()
    cast: Any = quantization.dequantized(plain, torch.bfloat16)
    assert {parameter.dtype for parameter in cast.parameters()} == {torch.bfloat16}
    assert torch.equal(cast.get_submodule("model.layers.0.self_attn.q_proj").weight, weight.bfloat16())


# bitsandbytes would repack 4-bit weights in the first evaluation where a CPU has AVX512-BF16, and lose the gradient.
@pytest.mark.slow
@pytest.mark.parametrize("path", TINIES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluated_model_still_passes_gradients_on(path, kind):
    quantized = pretrained.load_base(ModelConf(path, quantization=kind), CPU)

    def gradient(loaded):
        embedded = loaded.get_input_embeddings()(IDS).detach().requires_grad_()
        loaded(inputs_embeds=embedded).logits.square().mean().backward()
        return embedded.grad

    ordinary = quantization.dequantized(pretrained.load_base(ModelConf(path, quantization=kind), CPU), torch.float32)
    logits(quantized)
    expected, found = gradient(ordinary), gradient(with_exact_activations(quantized))
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_map_goes_with_it(kind):
    base = ModelConf("embedded:tiny", dtype="float32", quantization=kind)
    spread = dataclasses.replace(base, device_map="auto")
    one, other = (pretrained.load_base(each, pretrained.device()) for each in (spread, base))
    assert one.device == other.device == pretrained.device()
    assert torch.equal(logits(one), logits(other))
    assert soundness.problems(spread) == []


@pytest.mark.parametrize("kind", KINDS)
def test_without_bitsandbytes_quantization_is_refused_with_the_command_that_installs_it(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    (problem,) = soundness.problems(ModelConf("embedded:tiny", quantization=kind))
    assert f"model.quantization={kind} needs the package bitsandbytes, which is not installed" in problem
    assert "pip install -c constraints.txt -e '.[quantization]'" in problem
    assert soundness.problems(ModelConf("embedded:tiny")) == []


@pytest.mark.slow
def test_bitsandbytes_is_imported_only_where_it_is_used():
    code = (
        "import sys, torch; from lowrung.config.schema import ModelConf;"
        "from lowrung.finetune.models import pretrained;"
        "pretrained.load_base(ModelConf('embedded:tiny'), torch.device('cpu'));"
        "print('bitsandbytes' in sys.modules)"
    )
    source = str(Path(pretrained.__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
