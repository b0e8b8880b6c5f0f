"""What one process trained, another loads from the disk: on the original base, by its folder, or its id and commit."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lowrung.finetune.models import pretrained
from lowrung.store.layout import ROOT
from tests import architectures, warm
from tests.finetune.gate import reload
from tests.finetune.gate.reload import CASES, ID, OLD
from tests.terminal import environment

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
    hub = hub_cache(folder / "hub")
    variables = environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")
    for what in ("train", "reload"):
        done = warm.run([reload.__file__, what, str(folder), str(hub)], ROOT, variables)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_another_process_loads_what_was_trained(reloaded, case):
    trained, said = (torch.load(reloaded / case / f"{name}.pt") for name in ("trained", "reloaded"))
    assert trained["failures"] == []
    assert (said["adapter"] - trained["logits"]).abs().max() < RELOADED
    assert (said["merged"] - trained["logits"]).abs().max() < RELOADED
