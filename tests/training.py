"""A tiny fine-tune for tests: seconds, one thread, the same numbers every time."""

from pathlib import Path
from typing import Any

from lowrung.finetune import data, model, run
from lowrung.finetune.trainer import Recipe

LORA = {"r": 4, "alpha": 8.0, "dropout": 0.0, "use_rslora": False, "target_modules": "all-linear"}
RECIPE = {
    "learning_rate": 1e-2,
    "max_steps": 6,
    "batch_size": 4,
    "eval_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "eval_steps": 3,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_length": 256,
    "seed": 0,
}


def fine_tune(folder: Path, *, name: str = "number_words", lora: dict[str, Any] | None = None, **recipe: Any) -> Any:
    """Trains `tiny` below `folder`; returns what `run.fine_tune` does, and the reports it made."""
    reports: list[tuple[int, dict[str, float]]] = []
    trained = run.fine_tune(
        model_folder=model.locate("embedded:tiny"),
        dtype="auto",
        corpus=data.load(name=name, train_size=64, eval_size=24, seed=0),
        lora={**LORA, **(lora or {})},
        recipe=Recipe(**{**RECIPE, **recipe}),
        threads=1,
        adapter_folder=folder / "adapter",
        scratch=folder / "scratch",
        on_report=lambda step, metrics: reports.append((step, dict(metrics))),
    )
    return trained, reports
