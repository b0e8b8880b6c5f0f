"""A tiny fine-tune for tests: seconds, one thread, the same numbers every time."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.config.schema import TrainConf
from lowrung.finetune.data import tokens
from lowrung.finetune.data.tokens import Prepared
from lowrung.finetune.lora.settings import Lora
from lowrung.finetune.models import pretrained
from lowrung.finetune.models.pretrained import Base
from lowrung.finetune.training import fine_tune as run
from lowrung.finetune.training.trainer import Recipe
from tests import sources

LORA = {"r": 4, "alpha": 8.0}
RECIPE = {
    "learning_rate": 1e-2,
    "max_steps": 6,
    "batch_size": 4,
    "eval_batch_size": 8,
    "eval_steps": 3,
    "save_steps": 0,
}


def recipe(**changed: Any) -> Recipe:
    """A recipe of six steps without checkpoints."""
    train = dataclasses.asdict(TrainConf(**{**RECIPE, **changed.pop("train", {})}))
    return Recipe(**{**train, "max_length": 256, "seed": 0, **changed})


def prepared(folder: Path, base: Base, *, max_length: int = 256, **source: Any) -> Prepared:
    """Few examples as the base's tokens; ``source`` has fields of a `DataConf`."""
    corpus = sources.load(**{"name": "number_words", "train_size": 64, "eval_size": 24, **source})
    tokenizer = pretrained.tokenizer_of(base)
    return tokens.prepare(corpus, tokenizer, max_length=max_length, format="auto", folder=folder / "tokens")


def fine_tune(
    folder: Path,
    *,
    source: Mapping[str, Any] | None = None,
    base: Base | None = None,
    lora: dict[str, Any] | None = None,
    is_full: bool = False,
    scores: Sequence[str] = (),
    watch: Callable[[int], object] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
    **changed: Any,
) -> Any:
    """Trains `tiny`, or another base, below `folder`; returns what `run.fine_tune` does, and the reports it made.

    ``watch`` is called with the step of each report; what it raises ends the run. ``scores`` are of answers, and to
    generate those takes as long as the rest of the run.
    """
    reports: list[tuple[int, dict[str, float]]] = []

    def on_report(step: int, metrics: Mapping[str, float]) -> None:
        reports.append((step, dict(metrics)))
        watch(step)

    base = base or Base("embedded:tiny")
    extra = {key: changed.pop(key) for key in ("max_length", "seed", "lora_plus_ratio") if key in changed}
    trained = run.fine_tune(
        base=base,
        data=prepared(folder, base, **(source or {})),
        lora=None if is_full else Lora(**{**LORA, **(lora or {})}),
        recipe=recipe(train=changed, **extra),
        scores=scores,
        threads=1,
        folder=folder / "adapter",
        checkpoint_folder=folder / "checkpoints",
        on_report=on_report,
        should_stop=should_stop,
    )
    return trained, reports
