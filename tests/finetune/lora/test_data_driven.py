"""Inits that are computed from examples, compared with the papers' definitions, computed in other ways."""

import math

import pytest
import torch
from safetensors.torch import load_file

from lowrung.config.schema import LoraConf, ModelConf
from lowrung.errors import UsageError
from lowrung.finetune.lora import adapter, data_driven
from lowrung.finetune.lora.settings import rank, targets
from lowrung.finetune.models import head, pretrained, score
from tests import training

TINY = ModelConf("embedded:tiny")
DATA_DRIVEN = ("eva", "lora_ga", "corda")


@pytest.fixture(scope="module")
def rows():
    return training.prepared(TINY).train.select(range(24))


def base():
    return pretrained.load_base(TINY, torch.device("cpu"))


def settings(**changed):
    return LoraConf(**{"r": 4, "alpha": 8.0, **changed})


def batches(rows):
    return [{name: torch.tensor([row[name]]) for name in ("input_ids", "labels")} for row in rows]


def start_of_eva(rows, **changed):
    model = base()
    torch.manual_seed(0)
    return data_driven.eva(model, targets(model, settings()), settings(**changed), rows)


def inputs_at_learnt_tokens(rows, name):
    model, seen = base(), []
    for batch in batches(rows):
        is_learnt = batch["labels"][0] != -100
        hook = model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, mask=is_learnt: seen.append(inputs[0][0][mask])
        )
        with torch.no_grad():
            model(batch["input_ids"])
        hook.remove()
    return torch.cat(seen)


class TestEva:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["model.layers.0.self_attn.o_proj", "model.layers.1.mlp.down_proj"])
    def test_directions_explain_as_much_as_a_full_decomposition_can(self, rows, name):
        directions = start_of_eva(rows)[name]
        inputs = inputs_at_learnt_tokens(rows, name)
        centred = inputs - inputs.mean(0)
        most = torch.linalg.svdvals(centred)[: len(directions)].square().sum()
        assert (centred @ directions.T).square().sum() > 0.999 * most
        assert torch.allclose(directions @ directions.T, torch.eye(len(directions)), atol=1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("pattern", [{}, {"q_proj": 2, "down_proj": 6}])
    def test_ranks_are_shared_out_anew(self, rows, pattern):
        lora = settings(rank_pattern=pattern)
        given = {name: len(factor) for name, factor in start_of_eva(rows, rank_pattern=pattern).items()}
        names = targets(base(), settings())
        assert sum(given.values()) == sum(rank(lora, name) for name in names)
        assert all(got <= 2 * rank(lora, name) for name, got in given.items())
        assert len(set(given.values())) > 1

    @pytest.mark.slow
    @pytest.mark.parametrize("use_rslora", [False, True])
    def test_every_layer_keeps_its_scaling(self, rows, use_rslora):
        lora = settings(init="eva", use_rslora=use_rslora, alpha_pattern={"v_proj": 2.0})
        adapted = adapter.adapted_layers(adapter.attach(base(), lora, rows))
        whole = 8 / math.sqrt(4) if use_rslora else 8 / 4
        assert {name.rpartition(".")[2] for name in adapted} > {"q_proj", "v_proj"}
        for name, layer in adapted.items():
            assert layer.scaling["default"] == pytest.approx(whole / 4 if name.endswith("v_proj") else whole)

    @pytest.mark.slow
    def test_a_layer_without_a_rank_is_not_adapted(self, rows):
        given = start_of_eva(rows, r=1, alpha=2.0)
        adapted = adapter.adapted_layers(adapter.attach(base(), settings(init="eva", r=1, alpha=2.0), rows))
        assert adapted.keys() == given.keys()
        assert len(given) < len(targets(base(), settings()))


@pytest.mark.slow
def test_lora_ga_starts_with_the_singular_vectors_of_the_gradient(rows):
    model, name = base(), "model.layers.1.self_attn.q_proj"
    for batch in batches(rows):
        logits, labels = head.on_labelled_tokens(model, batch)
        (score.negative_log_likelihood(logits, labels) / len(labels)).backward()
    left, _, right = torch.linalg.svd(model.get_submodule(name).weight.grad)
    layer = adapter.adapted_layers(adapter.attach(base(), settings(init="lora_ga"), rows))[name]
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    assert torch.allclose((a @ right[:4].T).norm(), a.norm(), rtol=1e-3)
    assert torch.allclose((left[:, 4:8].T @ b).norm(), b.norm(), rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["lora_ga", "corda"])
def test_what_is_taken_from_the_base_is_in_the_factors(rows, init):
    before = {name: tensor.clone() for name, tensor in base().named_parameters()}
    adapted = adapter.adapted_layers(adapter.attach(base(), settings(init=init), rows))
    assert adapted
    for name, layer in adapted.items():
        taken = before[f"{name}.weight"] - layer.get_base_layer().weight
        assert taken.abs().max() > 1e-4
        assert torch.allclose(layer.get_delta_weight("default"), taken, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("init", DATA_DRIVEN)
def test_the_pass_prints_its_progress(rows, init, capsys):
    adapter.attach(base(), settings(init=init), rows)
    lines = [f"lora.init={init}: {number} of 24 examples" for number in (6, 12, 18, 24)]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("lora.init")] == lines


@pytest.mark.parametrize("init", DATA_DRIVEN)
def test_a_layer_that_no_example_reaches_is_refused(init):
    with pytest.raises(UsageError) as error:
        adapter.attach(base(), settings(init=init), [])
    assert error.value.problems == [
        f"lora.init={init} needs examples that reach every adapted layer, but none of 0 reaches"
        " model.layers.0.self_attn.q_proj. Raise lora.init_examples, or leave that layer out of lora.target_modules."
    ]


@pytest.mark.slow
def test_a_run_computes_its_init_from_as_many_examples_as_are_set(tmp_path, capsys):
    training.fine_tune(tmp_path, lora={"init": "eva", "init_examples": 5}, max_steps=1, eval_steps=1)
    assert "lora.init=eva: 5 of 5 examples" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_records_the_ranks_that_it_trained(tmp_path):
    trained, _ = training.fine_tune(tmp_path, lora={"init": "eva", "init_examples": 5}, max_steps=1, eval_steps=1)
    ranks = {name: layer["rank"] for name, layer in trained.ranks.items()}
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert ranks == {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): len(tensor)
        for name, tensor in saved.items()
        if ".lora_A." in name
    }
    assert trained.metrics["params/rank_mean"] == sum(ranks.values()) / len(ranks)
    assert {layer["scaling"] for layer in trained.ranks.values()} == {2.0}
