"""A run's prediction follows from its config and from the sizes that the preflight has found."""

import dataclasses
import re
from typing import Any

import pytest

from lowrung.config import machine
from lowrung.config.schema import Config, DataConf, LoraConf, ModelConf, TrainConf, VerifyConf
from lowrung.costs import history
from lowrung.costs.sizes import BaseSizes, RowSizes, TrainedSizes, trained_key
from lowrung.engine import memory
from lowrung.finetune.data.split import Split
from lowrung.finetune.found import Preflight
from lowrung.runs import inputs, planned
from tests import training
from tests.predicted import outcome

TRAIN = TrainConf(**training.TRAIN)
ROWS = RowSizes(8, (20,) * 101, (10,) * 101)


def sized(trainable):
    counts = {field.name: 1.0 for field in dataclasses.fields(TrainedSizes) if field.name != "guesses"}
    return TrainedSizes(**{**counts, "trainable": trainable, "trainable_bytes": 4 * trainable})


def lora(**changed):
    return LoraConf(**{"r": 8, "alpha": 8.0, **changed})


@pytest.fixture
def found():
    """A preflight of two ranks, in a process of two threads."""
    return Preflight(
        splits=(Split("data", "", "", "training", 8),),
        base=BaseSizes(10**6, 10**6, 10**5, 64, 256),
        trained={trained_key(lora(), TRAIN): {4: sized(400), 16: sized(1600)}},
        rows=(ROWS, ROWS),
        flops_per_second=1e9,
        threads=2,
    )


@pytest.fixture
def config(tmp_path, on_a_cpu):
    return Config(
        model=ModelConf("model"),
        data=DataConf(name="file", max_length=64),
        lora=lora(),
        train=TRAIN,
        verify=VerifyConf(prompts=2, new_tokens=4, merge_dtype="bfloat16"),
        store=str(tmp_path / "runs"),
    )


def asked(config, found) -> Any:
    return planned.asked(config, found, 1)


def test_a_rank_between_two_that_were_counted_is_known_and_another_adapter_is_not(config, found):
    known = asked(config, found)
    assert (known.trained.trainable, known.trained.trainable_bytes, known.guesses) == (800, 3200, ())
    for same in (lora(alpha=2.0), lora(use_rslora=True), lora(init="pissa"), lora(lora_plus_ratio=4.0)):
        assert asked(dataclasses.replace(config, lora=same), found).trained == known.trained
    for other in (lora(use_dora=True), lora(dropout=0.1), lora(init="mica"), lora(bias="all")):
        assert asked(dataclasses.replace(config, lora=other), found) is None


def test_more_threads_than_the_preflight_had_are_as_much_faster(config, found):
    def seconds(threads):
        prediction: Any = planned.predict(config, found, threads)
        return prediction.seconds

    assert seconds(2) < seconds(1)


def test_a_speed_that_was_measured_on_another_processor_is_a_guess(config, found):
    (guess,) = asked(config, dataclasses.replace(found, machine={"processor": "Another CPU"})).guesses
    assert guess.startswith("the speed is what Another CPU was measured to have")


def test_a_run_on_a_node_is_predicted_by_what_the_node_measured_and_one_here_by_this_machine(config, found):
    node = {"processor": "a node's"}
    checked_there = dataclasses.replace(found, machine=node)

    def source(**where):
        prediction: Any = planned.predict(config, checked_there, 1, **where)
        return prediction.source

    def note(by):
        made = outcome(asked(config, checked_there))
        planned.note(config, checked_there, 1, dataclasses.replace(made, facts={**made.facts, "machine": by}))

    note(machine.described())
    assert source() == "1 earlier run of these settings here"
    assert source(is_elsewhere=True) == history.FORMULAS
    note(node)
    assert source() == "1 earlier run of these settings here"
    assert source(is_elsewhere=True) == "1 earlier run of these settings on a node's"


def test_what_is_counted_and_measured_makes_no_other_run(config, found):
    def names(preflight):
        return inputs.run_signature(config, preflight, 1), inputs.base_folder(config, preflight, 1)

    uncounted = dataclasses.replace(found, base=None, trained={}, rows=(), flops_per_second=0.0, threads=1)
    assert names(dataclasses.replace(uncounted, machine={"processor": "Another CPU"})) == names(found)
    assert names(dataclasses.replace(found, data_fingerprint="other")) != names(found)


@pytest.mark.parametrize(("total", "is_said"), [(1e12, False), (1e6, True), (None, False)])
def test_a_single_run_that_does_not_fit_is_said(config, found, monkeypatch, total, is_said):
    monkeypatch.setattr(memory, "main", lambda: total and memory.Room(total, None, "main memory"))
    predicted: Any = planned.predict(config, found, 1)
    said = planned.too_large(config, predicted)
    assert (said is not None) is is_said
    if said:
        assert re.match(r"by the plan this run needs \d+ MB, and there are 1\.00 MB of main memory: it may end", said)
    spread = dataclasses.replace(config, model=dataclasses.replace(config.model, device_map="auto"))
    assert planned.too_large(spread, predicted) is None
