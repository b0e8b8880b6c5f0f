"""``python reload.py train|reload FOLDER HUB``: one process trains adapters, another reloads them.

``HUB`` is a hub's cache, and all that there is of the hub.
"""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.finetune.gate import verify
from lowrung.finetune.gate.case import Case, Evidence
from lowrung.finetune.gate.difference import completion_logits
from lowrung.finetune.models import added_tokens, pretrained
from tests import architectures, training

ID, OLD = "someone/tied", "1" * 40
"""A hub model and a commit that is not the newest."""

TOKENS = ["Write", "seventy", "<think>", "twenty", "thirty", "forty", "hundred"]
"""Two more than the bases have rows to spare."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("tied llama", {}),
    "tied, head": ("tied llama", {"modules_to_save": ["lm_head"]}),
    "tied, embedding": ("tied llama", {"modules_to_save": ["embed_tokens"]}),
    "head and embedding": ("llama", {"modules_to_save": ["lm_head", "embed_tokens"]}),
    "biases": ("qwen2", {"bias": "all"}),
    "Conv1D, biases": ("gpt2", {"bias": "all"}),
    "DoRA": ("qwen2", {"use_dora": True}),
    "PiSSA": ("tied llama", {"init": "pissa"}),
    "hub": (ID, {}),
    "added tokens": ("llama", {}),
    "added tokens, tied": ("tied llama", {"trainable_token_indices": [1, 2]}),
    "added tokens, whole": ("llama", {"modules_to_save": ["lm_head", "embed_tokens"]}),
    "added tokens, hub": (ID, {}),
}
"""Each with its base, an architecture's name or a hub id, and settings of the adapter."""


def train(folder: Path) -> None:
    """Trains and verifies each case below a folder, and leaves the rows and what the trained model said of them."""
    for name, (base_name, lora) in CASES.items():
        base = ModelConf(ID, OLD, dtype="float32") if base_name == ID else _copied_base(base_name, folder)
        if name.startswith("added tokens"):
            base = dataclasses.replace(base, added_tokens=TOKENS)
        trained, _ = training.fine_tune(folder / name, base=base, lora=lora, max_steps=3, eval_steps=3)
        rows = [*trained.held_out[:4], *added_tokens.examples(pretrained.added_rows(base))]
        evidence = Evidence.of(trained.model, rows, trained.dtype, trained.ends)
        gate = verify.verify(
            Case(
                base=base,
                adapter_folder=folder / name / "adapter",
                evidence=evidence,
                new_tokens=1,
                merge_dtype="float32",
                tolerances={"float32": ToleranceConf(1e-3, 1e-6, 0.99, 1e-4)},
                scratch=folder / name / "scratch",
            ),
            keep=folder / name / "merged",
        )
        found = {"rows": list(evidence.rows), "logits": evidence.logits, "failures": list(gate.failures)}
        torch.save(found, folder / name / "trained.pt")


def _copied_base(name: str, folder: Path) -> ModelConf:
    """A base that outlasts this process."""
    copy = folder / "bases" / name
    if not copy.exists():
        shutil.copytree(pretrained.folder_of(architectures.base(name)), copy)
    return ModelConf(str(copy), dtype="float32")


def reload(folder: Path) -> None:
    """Loads each adapter as people do, on the base that it names, and each merged model; leaves their logits."""
    for name in CASES:
        rows = torch.load(folder / name / "trained.pt")["rows"]
        adapter: Any = AutoPeftModelForCausalLM.from_pretrained(str(folder / name / "adapter"))
        merged = AutoModelForCausalLM.from_pretrained(folder / name / "merged")
        said = {kind: completion_logits(m.eval(), rows)[0] for kind, m in (("adapter", adapter), ("merged", merged))}
        torch.save(said, folder / name / "reloaded.pt")


if __name__ == "__main__":
    _, what, folder, hub = sys.argv
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = hub, True  # its variables are read when it is imported
    {"train": train, "reload": reload}[what](Path(folder))
