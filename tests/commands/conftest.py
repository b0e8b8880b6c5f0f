"""A store as a sweep leaves it, with two small runs that were trained once for all tests of the commands."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lowrung.config.schema import Config, DataConf, LoraConf, ModelConf, VerifyConf
from lowrung.finetune.models import pretrained
from lowrung.store import atomic, layout
from lowrung.store.layout import JobFolder, RunFolder
from lowrung.store.outcome import Outcome, Status
from tests import training

TRIALS: dict[str, dict[str, Any]] = {
    "ab12": {"r": 4, "alpha": 8.0},
    "cd34": {"r": 4, "alpha": 4.0, "target_modules": ["q_proj", "v_proj"]},
}


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """``runs/`` with the runs ab12 and cd34, and ``multirun/mine`` with the trials 0 and 1."""
    here = tmp_path_factory.mktemp("after") / "a folder"
    for number, (signature, lora) in enumerate(TRIALS.items()):
        run = layout.run_folder(here / "runs", signature)
        trained, _ = training.fine_tune(run.path, base=ModelConf("embedded:tiny"), lora=lora, seed=number)
        record(run, lora, trained.metrics)
        layout.point_to(JobFolder(here / "multirun" / "mine" / str(number)).run, run.path)
    shutil.copytree(training.tokens(ModelConf("embedded:tiny")), layout.tokens_folder(here / "runs", TOKENS))
    return here


TOKENS = "number-words"


def record(run, lora, metrics, **model):
    """Leaves what a run leaves, beside its adapter."""
    config = Config(
        model=ModelConf(path="embedded:tiny", **model),
        data=DataConf(name="number_words", max_length=256, train_size=64, eval_size=24),
        lora=LoraConf(**lora),
        verify=VerifyConf(prompts=8, merge_dtype="float32"),
    )
    values = OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))
    atomic.write_text(run.config, values.replace("???", "1"))
    atomic.write_json(run.environment, {"tokens": TOKENS})
    Outcome(Status.COMPLETE, {**metrics, "merge/passed": 1.0}).write(run.outcome)


def change_config(here, signature, group, **values):
    """Changes what is written down of a run's settings."""
    file = RunFolder(here / "runs" / signature).config
    config = OmegaConf.load(file)
    config[group].update(values)
    OmegaConf.save(config, file)


@pytest.fixture
def here(original, monkeypatch, tmp_path):
    """A copy of the store to work in."""
    folder = tmp_path / "a folder"
    shutil.copytree(original, folder, symlinks=True)
    monkeypatch.chdir(folder)
    torch.set_num_threads(1)
    return folder


@pytest.fixture
def whole(here):
    """The first run, with what a run is exported from."""
    change_config(here, "ab12", "train", learning_rate=1e-3, max_steps=2, batch_size=4, eval_batch_size=4, eval_steps=1)
    run = RunFolder(here / "runs" / "ab12")
    base = pretrained.fingerprint(pretrained.locate("embedded:tiny"))
    recorded = json.loads(run.environment.read_text())
    run.environment.write_text(json.dumps({**recorded, "device": "cpu", "model_fingerprint": base}))
    return run


@pytest.fixture
def store(here, store_in):
    """The address of a store beside the runs, with the experiment ``lowrung`` and no run."""
    return store_in(here)


@pytest.fixture
def adapter(here):
    """The folder of the first run's adapter."""
    return RunFolder(here / "runs" / "ab12").adapter


@pytest.fixture
def refused(capsys):
    """Runs a command that must be refused; returns what it says."""
    from lowrung.__main__ import main

    def run(*arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert ended.value.code == 2
        return str(capsys.readouterr().err)

    return run
