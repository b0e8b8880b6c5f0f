"""No generator of a GPU that holds no model is asked for: that would begin to use the GPU."""

import pytest
import torch

from lowrung.adapters.multi_adapter import MultiAdapter
from lowrung.config.schema import ModelConf
from lowrung.finetune.models import embedded, pretrained
from tests import training


@pytest.fixture(autouse=True)
def _two_gpus_beside(monkeypatch):
    def asked(device):
        raise AssertionError(f"GPU {device} was asked for its generator")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", asked)


def test_to_build_a_model(tmp_path):
    embedded.build_tiny(tmp_path)


def test_to_add_tokens_to_a_skeleton():
    pretrained.skeleton(ModelConf("embedded:tiny", added_tokens=["<new>"]))


@pytest.mark.slow
def test_to_combine_adapters(tmp_path):
    training.fine_tune(tmp_path, max_steps=1)
    adapters = MultiAdapter(training.TINY, torch.device("cpu"))
    for name in ("one", "two"):
        adapters.load(name, tmp_path / "adapter")
    adapters.combine("both", {"one": 0.5, "two": 0.5})
