"""What is made of templates is what Hydra composes, its own node included."""

from collections.abc import Iterator

import pytest
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lowrung.sweeps.templates import Templates
from tests import composing
from tests.composing import Composer

SAME = [
    [],
    ["lora.r=4"],
    ["lora.r=8", "train.learning_rate=0.001", "seed=3", "study=s"],
    ["lora=rslora", "lora.r=8"],
    ["lora.r=8", "lora=rslora"],
    ["data=number_words", "model=tiny", "train.max_steps=7"],
    ["lora.target_modules=[q_proj,v_proj]"],
    ["+lora.rank_pattern={q_proj:4}", "lora.r=2"],
    ["lora.peft={exclude_modules:[q_proj]}", "lora.peft.layers_pattern=h", "lora=dora"],
    ["lora.peft.use_bdlora.nblocks=2", "lora.r=2"],
    ["lora.alpha=16", "lora.r=4", "lora.alpha=32"],
    ["study='it\\'s, mine'"],
    ["train.max_steps=null", "train.epochs=2"],
    ["+lora.rank_pattern.q_proj=4", "lora.r=2"],
    ["~verify.tolerances.float16", "lora.r=2"],
    ["hydra.sweep.subdir=x", "lora.r=2"],
    ["++lora.r=4", "lora.r=8"],
]


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with composing.composer() as made:
        yield made


@pytest.fixture(scope="module")
def master(composer: Composer) -> DictConfig:
    return composer.compose(["hydra.sweeper.retries=2", "lora.r=2,4"], RunMode.MULTIRUN)


def texts(config: DictConfig) -> str:
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return OmegaConf.to_yaml(ours, resolve=True) + OmegaConf.to_yaml(config.hydra)


@pytest.mark.parametrize("overrides", SAME, ids=" ".join)
def test_a_config_is_the_one_that_hydra_composes(composer, master, overrides):
    templates = Templates(composer.hydra.config_loader, master)
    templates.compose(["lora.r=16", "train.max_steps=3"])  # leaves nothing behind
    expected = composer.hydra.config_loader.load_sweep_config(master, overrides)
    assert texts(templates.compose(overrides)) == texts(expected)
    assert OmegaConf.is_struct(templates.compose(overrides)) == OmegaConf.is_struct(expected)


@pytest.mark.parametrize("override", ["lora.rr=4", "lora.r=four", "lora=none_such", "lora=4", "lora.r=", "x=1"])
def test_what_hydra_refuses_is_refused_in_its_words(composer, master, override):
    with pytest.raises(Exception, match=r".") as expected:
        composer.hydra.config_loader.load_sweep_config(master, [override])
    with pytest.raises(type(expected.value)) as caught:
        Templates(composer.hydra.config_loader, master).compose([override])
    assert str(caught.value) == str(expected.value)


def test_the_same_groups_are_composed_once(composer, master, monkeypatch):
    loader = composer.hydra.config_loader
    composed: list[list[str]] = []
    load = loader.load_sweep_config

    def counted(master: DictConfig, overrides: list[str]) -> DictConfig:
        composed.append(overrides)
        made: DictConfig = load(master, overrides)
        return made

    monkeypatch.setattr(loader, "load_sweep_config", counted)
    templates = Templates(loader, master)
    for rank in range(1, 9):
        assert templates.compose(["lora=rslora", f"lora.r={rank}"]).lora.r == rank
    assert composed == [["lora=rslora"]]
