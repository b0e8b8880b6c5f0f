"""One run, from its config to its outcome."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lowrung import app, execution
from lowrung.finetune import adapter
from lowrung.layout import RunFolder
from lowrung.outcome import Outcome
from tests import composing

CONFIG = (
    "model=tiny",
    "model.added_tokens=[Write,'<think>']",  # of every example, and of none
    "data=number_words",
    "data.train_size=16",
    "data.eval_size=8",
    "train=smoke",
    "track=none",
)


def run(folder: Path) -> Outcome:
    """A run below a folder, in this process."""
    with composing.composer() as composer:
        config = composer.config(*CONFIG, f"store='{folder / 'runs'}'")
    return execution.execute(
        config,
        RunFolder(folder / "run"),
        data=app.look(config).data_folder,
        threads=1,
        on_point=lambda point: None,
        stop_reason=lambda: None,
    )


def test_added_tokens_are_trained_and_pass_the_gate(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    assert outcome.facts["gate_failures"] == []
    assert outcome.metrics["params/trainable/embed_tokens"] == outcome.metrics["params/trainable/lm_head"] == 2 * 64


@pytest.mark.slow
def test_the_gate_sees_added_tokens_that_no_held_out_example_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = adapter.save

    def save_another_row(*arguments: Any, **named: Any) -> int:
        size = save(*arguments, **named)
        file = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
        tensors = load_file(file)
        tensors["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"][1] += 0.3
        save_file(tensors, file, {"format": "pt"})
        return size

    monkeypatch.setattr(adapter, "save", save_another_row)
    assert any(failure.startswith("reloaded adapter: max") for failure in run(tmp_path).facts["gate_failures"])
