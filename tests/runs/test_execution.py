"""One run, from its config to its outcome."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lowrung.costs import facts
from lowrung.costs.facts import Planned
from lowrung.finetune.lora import adapter
from lowrung.runs import execution, inputs, planned
from lowrung.runs.computation import Computation
from lowrung.runs.folder import prepare_folder
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
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


def run(folder: Path, stop_reason: str | None = None) -> Outcome:
    """A run below a folder, in this process; with a reason to stop it ends after its first step."""
    with composing.composer() as composer:
        config = composer.config(*CONFIG, f"store='{folder / 'runs'}'")
    seen = inputs.preflight(config)
    claim = prepare_folder(RunFolder(folder / "run"), config, seen, threads=1)
    predicted = planned.predict(config, seen, threads=1)
    assert predicted
    return execution.execute(
        Computation(
            config, RunFolder(folder / "run"), seen.data_folder, inputs.base_folder(config, seen, 1), threads=1
        ),
        claim=claim,
        planned=Planned.of(predicted),
        on_point=lambda point: None,
        stop_reason=lambda: stop_reason,
    )


@pytest.mark.slow
def test_added_tokens_are_trained_and_pass_the_gate(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    assert outcome.facts["gate_failures"] == []
    assert outcome.metrics["params/trainable/embed_tokens"] == outcome.metrics["params/trainable/lm_head"] == 2 * 64
    assert outcome.facts["plan"].keys() == {"memory", "work", "speed", "guesses"}
    compared = facts.of(outcome.status, outcome.numbers, outcome.facts)
    assert compared[facts.TRAINABLE].predicted == compared[facts.TRAINABLE].measured
    assert all(one.ratio for one in compared.values())
    assert not any(name.startswith("plan/") for name in outcome.metrics)  # which no repeat of the run may differ in


@pytest.mark.slow
def test_what_was_pruned_goes_on_from_its_checkpoint_where_it_is_wanted_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = run(tmp_path, "pruned")
    assert pruned.status is Status.PRUNED
    assert {"base/eval_loss", "eval/loss"} <= pruned.metrics.keys()
    assert pruned.metrics["stopped/step"] == 1
    whole = run(tmp_path)
    assert whole.status is Status.COMPLETE
    for outcome in (pruned, whole):  # neither did in one go what was predicted
        compared = facts.of(outcome.status, outcome.numbers, outcome.facts)
        assert compared[facts.SECONDS].measured
        assert compared[facts.SECONDS].ratio is compared[facts.MEMORY].ratio is None
    assert "going on from step 1\n" in capsys.readouterr().out
    assert not RunFolder(tmp_path / "run").checkpoints.exists()


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
