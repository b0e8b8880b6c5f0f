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


def remedies(
    config: Config, room: float, found: Preflight = FOUND, *, at_once: int = 1, gpus: int = 0
) -> dict[str, str]:
    """The prices, by the settings."""
    known = Remedies(predict, Room(room, None, "memory", at_once), gpus, "hydra.launcher.workers")
    return {" ".join(remedy.settings): remedy.price for remedy in known.of(config, found)}


def peak(config: Config, known: Preflight = FOUND) -> float:
    found = predict(config, known)
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
    train = dataclasses.replace(config.train, batch_size=4, gradient_accumulation_steps=8)
    found = remedies(config, peak(dataclasses.replace(config, train=train)) * 1.001)
    assert "train.batch_size=4 train.gradient_accumulation_steps=8" in found


def test_fewer_at_once_leave_more_for_each(config):
    found = remedies(config, peak(config) * 0.7, at_once=3)
    assert found["hydra.launcher.workers=2"] == "2 at a time instead of 3"


def test_what_one_change_does_not_do_several_do_together(config):
    room = 3.3e9  # the base's weights alone are 4 GB in float32, and 2 GB in bfloat16
    known = remedies(config, room)
    assert known
    for settings in known:
        keys = [text.partition("=")[0] for text in settings.split()]
        assert len(keys) == len(set(keys)) > 1


def test_evaluations_are_made_smaller_where_they_are_largest(config):
    def scored(size: int) -> Config:
        train = dataclasses.replace(config.train, batch_size=1, eval_batch_size=size)
        scored: Config = dataclasses.replace(config, train=train)
        return scored

    long = dataclasses.replace(FOUND, rows=(ROWS, RowSizes(512, (400,) * 101, (350,) * 101)))
    assert remedies(scored(64), peak(scored(16), long) + 1, long)["train.eval_batch_size=16"]


@pytest.mark.usefixtures("on_a_cpu")  # a GPU's gate takes less memory
def test_a_run_that_fits_with_all_that_is_cheap_is_found(config):
    verify = dataclasses.replace(config.verify, enabled=True)
    assert FOUND.base is not None
    large = dataclasses.replace(FOUND.base, parameters=8 * 10**9, quantizable=7 * 10**9, vocabulary=128_256)
    rows = RowSizes(512, (256,) * 101, (200,) * 101)
    found = dataclasses.replace(FOUND, base=large, rows=(rows, rows))
    small = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dtype="bfloat16"),
        train=dataclasses.replace(config.train, batch_size=1, gradient_accumulation_steps=32, eval_batch_size=1),
    )
    known = remedies(dataclasses.replace(config, verify=verify), peak(small, found) + 1, found)
    needed = {"train.eval_batch_size", "train.batch_size", "model.dtype", "verify.enabled"}
    assert any(needed <= {text.partition("=")[0] for text in settings.split()} for settings in known)


def test_where_nothing_helps_nothing_is_named(config):
    assert remedies(config, 1e6) == {}


def test_what_breaks_a_rule_is_not_named(config):
    full = dataclasses.replace(config, lora=dataclasses.replace(config.lora, method="full"))
    assert not any("quantization" in settings for settings in remedies(full, 5e9))


@pytest.fixture
def odd(config: Config) -> Config:
    """With a batch that cannot be halved, and all but its activations as small as can be without rounding further."""
    train = dataclasses.replace(config.train, batch_size=99, gradient_checkpointing=True)
    return dataclasses.replace(config, train=train, model=dataclasses.replace(config.model, dtype="bfloat16"))


def test_several_gpus_are_named_where_there_are_some(odd):
    room = peak(odd) * 0.6
    assert "model.device_map=auto hydra.launcher.gpus_per_trial=2" in remedies(odd, room, gpus=2)
    assert not any("gpus_per_trial" in settings for settings in remedies(odd, room, gpus=1))


def test_rows_are_cut_where_few_are_longer(odd):
    assert remedies(odd, peak(odd) - 1)["data.max_length=128"] == "22% of the rows are cut"
    longer = dataclasses.replace(FOUND, rows=(RowSizes(512, (200,) * 101, (50,) * 101),) * 2)
    found = predict(odd, longer)
    assert found is not None
    known = Remedies(predict, Room(found.memory_bytes - 1, None, "memory", 1), 0, "hydra.launcher.workers")
    assert not any("max_length" in text for remedy in known.of(odd, longer) for text in remedy.settings)


def test_a_run_that_nothing_makes_fit_takes_few_predictions(config):
    asked: list[Config] = []

    def counting(config: Config, found: Preflight) -> Prediction | None:
        asked.append(config)
        return predict(config, found)

    all_kinds = dataclasses.replace(config, verify=dataclasses.replace(config.verify, enabled=True))
    assert Remedies(counting, Room(1e6, None, "memory", 4), 8, "hydra.launcher.workers").of(all_kinds, FOUND) == []
    assert len(asked) < 100  # of the 2,047 sets of eleven changes
