"""LoftQ's start is the nearest that its rank allows to the base before it was quantised."""

import pytest
import torch

from lowrung.config.schema import LoraConf, ModelConf
from lowrung.finetune.gate.difference import completion_logits
from lowrung.finetune.lora import adapter, loftq
from lowrung.finetune.models import pretrained
from tests import training

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("path", "quantization"),
    [
        ("embedded:tiny", "nf4"),
        pytest.param("embedded:tiny", "int8", marks=pytest.mark.slow),
        pytest.param("embedded:tiny_gpt2", "nf4", marks=pytest.mark.slow),
        pytest.param("embedded:tiny_gpt2", "int8", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_start_gives_back_as_much_as_its_rank_can(path, quantization, use_rslora):
    original = pretrained.load_base(ModelConf(path), CPU, dtype=torch.float32)
    base = pretrained.load_base(ModelConf(path, quantization=quantization), CPU)
    adapted = adapter.attach(base, LoraConf(r=4, alpha=8.0, init="loftq", use_rslora=use_rslora))
    loftq.start(adapted, original)
    layers = adapter.adapted_layers(adapted)
    assert layers
    for name, layer in layers.items():
        held = loftq.weight_held(layer.get_base_layer())
        before = loftq.weight_held(original.get_submodule(name))
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        left = before - held - layer.scaling["default"] * (b @ a).detach().float()
        values = torch.linalg.svdvals(before - held)
        assert left.norm().item() == pytest.approx(values[4:].norm().item(), rel=1e-3)
        assert left.norm() < 0.99 * values.norm()


@pytest.mark.slow
def test_a_run_starts_nearer_to_the_base_that_was_not_quantised(tmp_path):
    def start(name, quantization, init):
        base, lora = ModelConf("embedded:tiny", quantization=quantization), {"init": init, "r": 16, "alpha": 32.0}
        still = 1e-30  # a rate at which the step changes nothing
        trained, _ = training.fine_tune(
            tmp_path / name, base=base, lora=lora, max_steps=1, eval_steps=1, learning_rate=still
        )
        return completion_logits(trained.model, trained.held_out)[0]

    whole, nf4, restored = start("whole", "none", "default"), start("nf4", "nf4", "default"), start("q", "nf4", "loftq")
    assert (restored - whole).norm() < 0.9 * (nf4 - whole).norm()
