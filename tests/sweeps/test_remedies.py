"""Settings with which a run would fit."""

import dataclasses

import pytest

from lowrung.config.schema import Config
from lowrung.costs import prediction
from lowrung.costs.prediction import Prediction, Speed
from lowrung.costs.sizes import BaseSizes, RowSizes
from lowrung.finetune.found import Preflight
from lowrung.runs import planned
from lowrung.sweeps.remedies import Remedies
from lowrung.sweeps.room import Room
from tests.composing import Composer
from tests.stage import SEEN, sized_at

ROWS = RowSizes(512, tuple(range(50, 151)), (50,) * 101)
FOUND = dataclasses.replace(
    SEEN,
    base=BaseSizes(parameters=10**9, quantizable=9 * 10**8, largest=10**7, width=2000, vocabulary=50_000),
    rows=(ROWS, ROWS),
    flops_per_second=1e12,
)
"""Of a model with a billion weights."""


@pytest.fixture(scope="module")
def config(composer: Composer) -> Config:
    return composer.config("train.batch_size=32", "model.dtype=float32", "data.max_length=256", "verify=none")


def predict(config: Config, found: Preflight) -> Prediction | None:
    """By the formulas, with sizes that follow from the settings alone."""
    found = dataclasses.replace(found, trained=sized_at(config))
    asked = planned.asked(config, found, 1)
    assert asked is not None
    return prediction.predict(asked, Speed.unmeasured(asked, 1e12, "simulated"))


def remedies(config: Config, room: float, *, at_once: int = 1, gpus: int = 0) -> dict[str, str]:
    """The prices, by the settings."""
    known = Remedies(predict, Room(room, None, "memory", at_once), gpus, "hydra.launcher.workers")
    return {" ".join(remedy.settings): remedy.price for remedy in known.of(config, FOUND)}


def peak(config: Config) -> float:
    found = predict(config, FOUND)
    assert found is not None
    return found.memory_bytes


def test_single_changes_come_first_and_the_cheapest_of_them_first(config):
    found = remedies(config, peak(config) - 1)
    assert list(found)[:2] == [
        "train.batch_size=16 train.gradient_accumulation_steps=2",
        "train.gradient_checkpointing=true",
    ]
    assert all(len(settings.split()) <= 2 for settings in found)


def test_a_batch_is_halved_as_often_as_it_must_be(config):
    small = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=4))
    found = remedies(config, peak(small))
    assert "train.batch_size=4 train.gradient_accumulation_steps=8" in found


def test_fewer_at_once_leave_more_for_each(config):
    found = remedies(config, peak(config) * 0.7, at_once=3)
    assert found["hydra.launcher.workers=2"] == "2 at a time instead of 3"


def test_what_one_change_does_not_do_several_do_together(config):
    room = 1.7e9  # the base's weights alone are 4 GB in float32, and 2 GB in bfloat16
    (settings,) = remedies(config, room)
    assert settings.split("model.quantization=")[1].startswith("nf4")
    assert settings.count("model.quantization") == 1
    assert len(settings.split()) > 1


def test_where_nothing_helps_nothing_is_named(config):
    assert remedies(config, 1e6) == {}


def test_what_breaks_a_rule_is_not_named(config):
    full = dataclasses.replace(config, lora=dataclasses.replace(config.lora, method="full"))
    assert not any("quantization" in settings for settings in remedies(full, 5e9))


def test_several_gpus_are_named_where_there_are_some(config):
    room = peak(config) * 0.6
    assert any("model.device_map=auto" in settings for settings in _all(config, room, gpus=2))
    assert not any("gpus_per_trial" in settings for settings in _all(config, room, gpus=1))


def _all(config: Config, room: float, gpus: int) -> dict[str, str]:
    """With a batch of one, so that few settings are left that help."""
    train = dataclasses.replace(config.train, batch_size=1, gradient_checkpointing=True)
    model = dataclasses.replace(config.model, quantization="nf4")
    return remedies(dataclasses.replace(config, train=train, model=model), room * 0.3, gpus=gpus)


def test_rows_are_cut_where_few_are_longer(config):
    train = dataclasses.replace(config.train, batch_size=1, gradient_checkpointing=True)
    one = dataclasses.replace(config, train=train, model=dataclasses.replace(config.model, quantization="nf4"))
    assert remedies(one, peak(one) - 1) == {"data.max_length=128": "22% of the rows are cut"}
    longer = dataclasses.replace(FOUND, rows=(RowSizes(512, (200,) * 101, (50,) * 101),) * 2)
    known = Remedies(predict, Room(peak(one) - 1, None, "memory", 1), 0, "hydra.launcher.workers")
    assert known.of(one, longer) == []  # all of them would be cut
