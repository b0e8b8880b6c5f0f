"""The output and the gradients of LoRA layers are those of PEFT, in fewer operations, or are left to PEFT."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from lowrung.config.schema import LoraConf
from lowrung.finetune.lora import adapter, merge, products
from tests.architectures import CONFIGS, SIZES, random_model

TOKENS = torch.arange(3, 27).reshape(2, 12)
BIASED = LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)


def adapted(config=CONFIGS["llama"], dtype=torch.float32, **lora):
    model = adapter.attach(random_model(config).to(dtype), LoraConf(**{"r": 4, "alpha": 8.0, **lora}))
    torch.manual_seed(0)
    for layer in adapter.adapted_layers(model).values():
        nn.init.normal_(layer.lora_B["default"].weight, std=0.1)  # 0 at the start, which hides the update
    return model


def settled(model):
    return [name for name, layer in adapter.adapted_layers(model).items() if type(layer) is products._Together]


def logits_and_gradients(model):
    logits = model(input_ids=TOKENS).logits
    logits.logsumexp(-1).sum().backward()
    return logits, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("config", "lora"),
    [
        (CONFIGS["llama"], {}),
        (BIASED, {}),
        (CONFIGS["llama"], {"use_rslora": True, "rank_pattern": {"q_proj": 2}}),
        (CONFIGS["llama"], {"target_modules": ["q_proj", "down_proj"]}),
        (CONFIGS["gemma2"], {}),
    ],
    ids=["llama", "biases", "a rank for each", "two layers", "gemma2"],
)
def test_logits_and_gradients_are_those_of_peft(config, lora):
    model = adapted(config, **lora).train()
    other = copy.deepcopy(model)
    products.settle(other)
    assert settled(other) == list(adapter.adapted_layers(model))
    expected, gradients = logits_and_gradients(model)
    logits, ours = logits_and_gradients(other)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(ours, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("config", "lora"),
    [(CONFIGS["llama"], {}), (BIASED, {}), (CONFIGS["llama"], {"init": "pissa"})],
    ids=["llama", "biases", "PiSSA, which has its start beside it"],
)
def test_an_adapter_in_float32_on_a_base_in_16_bits_has_the_output_and_gradients_of_peft(config, lora, dtype):
    model = adapted(config, dtype, **lora)
    other = copy.deepcopy(model)
    products.settle(other)
    assert settled(other) == list(adapter.adapted_layers(model))
    x = torch.randn(2, 12, SIZES["hidden_size"], generator=torch.Generator().manual_seed(0)).to(dtype)
    for name in ("self_attn.q_proj", "mlp.up_proj"):
        layers = [each.get_submodule(f"base_model.model.model.layers.0.{name}") for each in (model, other)]
        exact = copy.deepcopy(layers[0]).double()
        (output, of_x, *trained), ours = [output_and_gradients(layer, x) for layer in layers]
        assert torch.equal(ours[0], output)
        torch.testing.assert_close(ours[2:], trained, rtol=1e-5, atol=1e-5)
        wanted = output_and_gradients(exact, x.double())
        assert off(ours[1], wanted[1]) <= 1.05 * off(of_x, wanted[1])


def output_and_gradients(layer, x):
    """Of a layer: its output, and the gradients of its input, of A and of B."""
    x = x.clone().requires_grad_()
    output = layer(x)
    weight = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    trained = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    return [output, *torch.autograd.grad((output.double() * weight).sum(), (x, *trained))]


def off(found, exact):
    """The mean error."""
    return (found.double() - exact).abs().mean().item()


def test_no_copy_of_an_input_in_float32_is_kept():
    """Of a base in bfloat16, whose input is what the layer before it holds anyway."""
    model = adapted(dtype=torch.bfloat16)
    products.settle(model)
    layer = next(iter(adapter.adapted_layers(model).values()))
    kept: list[torch.Tensor] = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.ones(6, 7, layer.in_features, dtype=torch.bfloat16, requires_grad=True))
    large = {tensor.dtype for tensor in kept if tensor.numel() >= 6 * 7 * layer.in_features}
    assert large == {torch.bfloat16}


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        (CONFIGS["llama"], {"use_dora": True}),
        (CONFIGS["llama"], {"dropout": 0.1}),
        (CONFIGS["gpt2"], {}),
        (CONFIGS["llama"], {"peft": {"lora_bias": True}}),
        (BIASED, {"bias": "all"}),
    ],
    ids=["DoRA", "dropout", "Conv1D", "a bias of B", "trained biases"],
)
def test_what_is_more_than_a_product_is_left_to_peft(config, changed):
    model = adapted(config, **changed)
    products.settle(model)
    assert settled(model) == []


def test_a_base_layer_with_a_hook_is_left_to_peft():
    model = adapted()
    name, layer = next(iter(adapter.adapted_layers(model).items()))
    layer.base_layer.register_forward_hook(lambda module, given, output: output + 1)
    products.settle(model)
    assert name not in settled(model)


def test_an_adapter_that_is_off_merged_or_not_alone_is_left_to_peft():
    model = adapted()
    plain = copy.deepcopy(model)
    products.settle(model)
    inputs = {"input_ids": TOKENS}
    with model.disable_adapter(), plain.disable_adapter():
        assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
    model.add_adapter("other", model.peft_config["default"])
    plain.add_adapter("other", plain.peft_config["default"])
    for each in (model, plain):
        each.base_model.set_adapter(["default", "other"])
    with torch.no_grad():
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            other.copy_(one)
    torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits)
    for each in (model, plain):
        each.base_model.set_adapter("default")
    torch.testing.assert_close(merge.merge(model)(**inputs).logits, merge.merge(plain)(**inputs).logits)
