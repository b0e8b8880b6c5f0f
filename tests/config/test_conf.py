"""Every file below conf/ composes, and what it composes passes all checks; tests/sweeps/test_presets.py has sweeps/."""

import re
from pathlib import Path

import pytest
from hydra.types import RunMode

from lowrung.config import rules
from lowrung.engine import hydra_job
from lowrung.store.layout import ROOT

CHOICES = sorted((path.parent.name, path.stem) for path in (ROOT / "conf").glob("*/*.yaml"))


def test_there_are_files():
    assert {group for group, _ in CHOICES} == {"data", "lora", "model", "track", "train", "verify"}


def test_the_defaults_are_those_of_the_design(composer):
    composed = composer.compose()
    config = composer.config()
    choices = composed.hydra.runtime.choices
    expected: dict[str, str | None] = {
        "model": "smollm2_135m",
        "data": "docstrings",
        "lora": "default",
        "train": "default",
    }
    expected |= {"verify": "default", "track": "mlflow", "sweeps": None}
    assert {name: choices[name] for name in expected} == expected
    assert choices["hydra/sweeper"] == "lowrung"
    assert choices["hydra/launcher"] == "local"
    assert (config.seed, config.study, config.store) == (0, None, "runs")
    assert rules.problems(config) == []


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_and_passes(composer, group, name):
    needs_path = group == "data" and name in ("file", "hub")
    overrides = [f"{group}={name}", *(["data.path=somewhere"] if needs_path else [])]
    overrides += ["model.quantization=nf4"] if name == "loftq" else []
    composed = composer.compose(overrides)
    assert composed.hydra.runtime.choices[group] == name
    assert rules.problems(composer.config(*overrides)) == []


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_says_what_it_is(group, name):
    assert re.match(r"# \w", (ROOT / "conf" / group / f"{name}.yaml").read_text())


@pytest.mark.slow
def test_a_trial_of_a_preset_is_an_ordinary_config(composer):
    master = composer.compose(["sweeps=rank_ladder"], RunMode.MULTIRUN)
    job = composer.hydra.config_loader.load_sweep_config(master, ["sweeps=rank_ladder", "lora.r=32"])
    assert (job.lora.r, job.lora.alpha) == (32, 32)


@pytest.mark.parametrize(
    ("overrides", "alpha"),
    [
        ([], 32.0),
        (["lora.r=4"], 32.0),
        (["lora.r=64", "lora.alpha='${twice:${lora.r}}'"], 128.0),
        (["lora.r=4", "lora.alpha=3"], 3.0),
        (["lora=rslora"], 8.0),
        (["lora=rslora", "lora.r=64"], 8.0),
        (["lora=rslora", "lora.r=64", "lora.alpha=16"], 16.0),
    ],
)
def test_alpha_is_the_same_at_every_rank(composer, overrides, alpha):
    assert composer.config(*overrides).lora.alpha == alpha


def test_rslora_scales_as_the_default_does_at_rank_16(composer):
    default, rslora = composer.config("lora.r=16").lora, composer.config("lora=rslora", "lora.r=16").lora
    assert rslora.use_rslora
    assert not default.use_rslora
    assert rslora.alpha / rslora.r**0.5 == default.alpha / default.r == 2


def test_a_sweeps_folder_is_named_by_the_study(composer):
    master = composer.compose(["study=mine"], RunMode.MULTIRUN)
    job = composer.hydra.config_loader.load_sweep_config(master, ["study=mine"])
    job.hydra.job.num = 3
    assert hydra_job.output_folder(job) == Path.cwd() / "multirun" / "mine" / "3"
