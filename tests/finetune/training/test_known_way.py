"""Runs that begin with the same model measure once how its logits are computed; any other model is measured anew."""

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch

from lowrung.config.schema import LoraConf, TrainConf
from lowrung.finetune.models import attention, head
from lowrung.finetune.training import known_way
from lowrung.store import kept
from tests import training
from tests.architectures import CONFIGS, random_model

FEW = {"train_size": 16, "eval_size": 8}
CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    """How often a trained model was measured; its base is measured only where its scores are not known."""
    calls = []

    def counted(model, *arguments, **options):
        calls.append(model)
        return choose(model, *arguments, **options)

    choose = head.choose
    monkeypatch.setattr(head, "choose", counted)
    return calls


@pytest.mark.slow
def test_runs_at_other_rates_measure_once_and_train_to_the_same_result(tmp_path, measured):
    def metrics(folder, **changed):
        return training.fine_tune(folder, source=FEW, max_steps=2, lora={"dropout": 0.1}, **changed)[0].metrics

    found = metrics(tmp_path / "one")
    assert len(measured) == 2  # the base, and with its adapter
    metrics(tmp_path / "two", learning_rate=1e-3)
    assert metrics(tmp_path / "two") == found
    assert len(measured) == 4


@pytest.fixture
def model():
    return random_model(CONFIGS["llama"])


def path(folder, *, device=CPU, seed=0, lora=(), **train):
    settings = LoraConf(**{**training.LORA, **dict(lora)}), TrainConf(**{**training.TRAIN, **train})
    return known_way.path(folder, *settings, seed, device)


CHANGED: dict[str, dict[str, Any]] = {
    "the seed": {"seed": 1},
    "the rank": {"lora": {"r": 8}},
    "alpha": {"lora": {"alpha": 4.0}},
    "dropout": {"lora": {"dropout": 0.1}},
    "the kind": {"lora": {"init": "pissa"}},
    "DoRA": {"lora": {"use_dora": True}},
    "packing": {"packing": True},
    "checkpointing": {"gradient_checkpointing": True},
    "noise": {"sft": {"neftune_noise_alpha": 5}},
    "ranks": {"parallel": "ddp", "ranks": 2},
}


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
def test_a_model_that_begins_otherwise_has_an_answer_of_its_own(tmp_path, changed):
    assert path(tmp_path, **changed) != path(tmp_path)


def test_every_other_field_of_training_counts(tmp_path):
    changed = {field.name: "other" for field in dataclasses.fields(TrainConf)}
    same = {name for name, value in changed.items() if path(tmp_path, **{name: value}) == path(tmp_path)}
    assert same == {*known_way.AFTER_THE_START}


class _MeasuredError(Exception):
    """Ends a run where its trained model would be measured."""


@pytest.fixture
def begins(tmp_path, monkeypatch):
    """What a run with these settings measures its trained model by, before its first step."""
    choose = head.choose
    found: list[Any] = []

    def seen(model, batch, **options):
        if not hasattr(model, "peft_config"):
            return choose(model, batch, **options)  # the base
        weights = [(name, each.detach().clone()) for name, each in model.state_dict().items()]
        modules = [(name, module.training, type(module)) for name, module in model.named_modules()]
        found[:] = [weights, modules, sorted(batch.items()), options, torch.get_rng_state()]
        raise _MeasuredError

    def of(**changed):
        with pytest.raises(_MeasuredError):
            training.fine_tune(tmp_path, **{"source": FEW, "lora": {"dropout": 0.1}, **changed})
        return list(found)

    monkeypatch.setattr(head, "choose", seen)
    return of


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


AFTER: dict[str, Any] = {
    "learning_rate": 1e-3,
    "rate_factor": 2.0,
    "max_steps": 3,
    "epochs": 1.0,
    "eval_steps": 2,
    "save_steps": 1,
    "save_total_limit": 2,
    "early_stopping": 1,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.5,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
}
NEEDED: dict[str, dict[str, Any]] = {"epochs": {"max_steps": None}, "early_stopping": {"save_steps": 3}}
"""What some of them must be given with."""


@pytest.mark.slow
def test_a_field_that_does_not_count_changes_nothing_that_is_measured(begins):
    assert {*AFTER} == {*known_way.AFTER_THE_START}
    first = begins()
    for name, value in AFTER.items():
        assert same(begins(**{name: value, **NEEDED.get(name, {})}), first), name
    for counts in ({"seed": 1}, {"lora": {"dropout": 0.0}}, {"sft": {"neftune_noise_alpha": 5}}):
        assert not same(begins(**counts), first), counts


def test_another_processor_measures_for_itself(tmp_path, monkeypatch):
    one = path(tmp_path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert path(tmp_path) != one


@pytest.mark.parametrize("way", [head.on_all_tokens, head.on_labelled_tokens, head.on_joined_rows])
def test_a_model_is_readied_for_the_way_that_is_known(model, tmp_path, way):
    file = tmp_path / "way.arrays"
    assert known_way.of(model, file, lambda: way) is way
    assert known_way.of(model, file, pytest.fail) is way
    assert attention.name(model) == (attention.NAME if way is head.on_joined_rows else "sdpa")


def damaged(file):
    file.write_bytes(file.read_bytes()[:-1])


def of_another_name(file):
    kept.keep(file, {"way": np.array("on_no_tokens")})


def without_a_way(file):
    kept.keep(file, {"other": np.array("on_joined_rows")})


@pytest.mark.parametrize("spoil", [damaged, of_another_name, without_a_way])
def test_what_is_no_answer_is_measured_again(model, tmp_path, spoil):
    file = tmp_path / "way.arrays"
    known_way.of(model, file, lambda: head.on_joined_rows)
    spoil(file)
    assert known_way.of(model, file, lambda: head.on_labelled_tokens) is head.on_labelled_tokens
    assert known_way.of(model, file, pytest.fail) is head.on_labelled_tokens


def counts(model):
    model.seen += 1


CHANGES = {
    "a buffer": counts,
    "a new buffer": lambda model: model.register_buffer("seen", torch.ones(1)),
    "Python's generator": lambda model: random.random(),
    "NumPy's generator": lambda model: np.random.random(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_model_that_measuring_changes_is_measured_in_every_run(model, tmp_path, change):
    model.register_buffer("seen", torch.zeros(1))

    def measure():
        change(model)
        return head.on_labelled_tokens

    file = tmp_path / "way.arrays"
    known_way.of(model, file, measure)
    assert not file.exists()
