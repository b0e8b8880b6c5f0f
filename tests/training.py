"""A tiny fine-tune for tests: seconds, one thread, the same numbers every time."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lowrung.finetune.training.fine_tune
from lowrung.config import schema
from lowrung.config.schema import LoraConf, ModelConf, TrainConf
from lowrung.finetune.data import corpus
from lowrung.finetune.data.prepared import Prepared, key, prepare
from lowrung.finetune.data.template import Format
from lowrung.finetune.models import pretrained
from lowrung.finetune.training.trainer import Recipe
from tests import sources

TINY = ModelConf("embedded:tiny", dtype="float32")
"""In the precision that numbers and tolerances of tests are in; ``auto`` would be bfloat16 on a GPU."""

LORA: dict[str, Any] = {"r": 4, "alpha": 8.0}
TRAIN: dict[str, Any] = {
    "learning_rate": 1e-2,
    "max_steps": 6,
    "batch_size": 4,
    "eval_batch_size": 8,
    "eval_steps": 3,
    "save_steps": 0,
}


def prepared(base: ModelConf, *, max_length: int = 256, **source: Any) -> Prepared:
    """Few examples as the base's tokens; ``source`` has fields of a `DataConf`."""
    return Prepared.load(tokens(base, max_length=max_length, **source))


def tokens(base: ModelConf, *, max_length: int = 256, **source: Any) -> Path:
    """Their folder, which is not to be changed: to write it takes 70 ms, so equal tokens are written once a process."""
    few = {"name": "number_words", "train_size": 64, "eval_size": 24, "max_length": max_length}
    data = sources.task(**{**few, **source})
    examples, tokenizer = corpus.load(data), pretrained.tokenizer_of(base)
    folder = Path(_kept().name) / key(examples, tokenizer, data, tokenizer.backend_tokenizer.to_str())
    prepare(examples, tokenizer, data, folder)
    return folder


@functools.cache
def _kept() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="lowrung-tokens-")


def recipe(
    folder: Path,
    data: Prepared,
    lora: LoraConf,
    *,
    seed: int = 0,
    max_length: int = 256,
    base_folder: Path | None = None,
    **changed: Any,
) -> Recipe:
    """What the trainer is given, with its folders below ``folder``; ``changed`` has fields of a `TrainConf`."""
    train = TrainConf(**{**TRAIN, **changed})
    return Recipe(data, lora, train, max_length, seed, folder / "checkpoints", base_folder or folder / "base")


def fine_tune(
    folder: Path,
    *,
    source: Mapping[str, Any] | None = None,
    base: ModelConf | None = None,
    lora: dict[str, Any] | None = None,
    is_full: bool = False,
    seed: int = 0,
    base_folder: Path | None = None,
    scores: Sequence[str] = (),
    watch: Callable[[int], object] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
    **changed: Any,
) -> Any:
    """Trains `tiny` in float32, or another base, below `folder`, for six steps without checkpoints.

    ``watch`` is called with the step of each report; what it raises ends the run. ``scores`` are of answers, and to
    generate those takes as long as the rest of the run. ``base_folder`` has what is known of bases, for tests that
    change nothing of how a base is computed.

    Returns:
        what the library's `fine_tune` returns, and the reports that it made.
    """
    reports: list[tuple[int, dict[str, float]]] = []

    def on_report(step: int, metrics: Mapping[str, float]) -> None:
        reports.append((step, dict(metrics)))
        watch(step)

    base = base or TINY
    asked = recipe(
        folder,
        prepared(base, **(source or {})),
        LoraConf("full" if is_full else "lora", **{**LORA, **(lora or {})}),
        seed=seed,
        base_folder=(base_folder or folder / "base") / schema.digest([dataclasses.asdict(base), is_full, source]),
        **changed,
    )
    trained = lowrung.finetune.training.fine_tune.fine_tune(
        base,
        asked,
        format=Format(),
        scores=scores,
        threads=1,
        folder=folder / "adapter",
        on_report=on_report,
        should_stop=should_stop,
        kept_rows=3,
    )
    return trained, reports
