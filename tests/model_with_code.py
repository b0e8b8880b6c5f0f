"""A model that brings Python code of its own."""

import json
import shutil
from pathlib import Path

import pytest

from lowrung.finetune.models import pretrained

CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

Path({trace!r}).touch()


class MineConfig(LlamaConfig):
    model_type = "mine"


class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""


def make(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`tiny` as such a model, in ``place/foreign``; its code leaves the file ``place/ran`` when it runs."""
    folder = place / "foreign"
    shutil.copytree(pretrained.locate("embedded:tiny"), folder)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(place / "modules"))
    monkeypatch.syspath_prepend(str(place / "modules"))
    (folder / "mine.py").write_text(CODE.format(trace=str(place / "ran")))
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    changed = {**config, "model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": names}
    (folder / "config.json").write_text(json.dumps(changed))
    return folder
