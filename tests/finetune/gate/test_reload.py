"""What one process trained, another loads from the disk: on the original base, by its folder, or its id and commit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowrung.finetune.models import pretrained
from tests import architectures
from tests.finetune.gate.reload import CASES, ID, OLD
from tests.terminal import PATIENCE

ROOT = Path(__file__).parents[3]

RELOADED = 1e-4
"""Largest logit difference; training changes a logit by some tenths and more."""


def hub_cache(folder):
    """A hub's cache with a model of two commits, of which the older one is the base."""
    model = folder / f"models--{ID.replace('/', '--')}"
    for commit in (OLD, "2" * 40):
        shutil.copytree(pretrained.folder_of(architectures.base("tied llama")), model / "snapshots" / commit)
    newest = model / "snapshots" / ("2" * 40) / "model.safetensors"
    save_file({name: 1.1 * w for name, w in load_file(newest).items()}, newest, metadata={"format": "pt"})
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("2" * 40)
    return folder


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reload")
    offline = {"HF_HUB_CACHE": str(hub_cache(folder / "hub")), "HF_HUB_OFFLINE": "1"}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    for what in ("train", "reload"):
        subprocess.run(
            [sys.executable, "-m", "tests.finetune.gate.reload", what, str(folder)],
            cwd=ROOT,
            env={**os.environ, **offline, "PYTHONPATH": path},
            check=True,
            timeout=PATIENCE,
        )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_another_process_loads_what_was_trained(reloaded, case):
    trained, said = (torch.load(reloaded / case / f"{name}.pt") for name in ("trained", "reloaded"))
    assert trained["failures"] == []
    assert (said["adapter"] - trained["logits"]).abs().max() < RELOADED
    assert (said["merged"] - trained["logits"]).abs().max() < RELOADED
