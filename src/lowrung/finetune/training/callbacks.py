"""Callbacks of the trainer: they report metrics, stop on request, and end a run that diverged."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lowrung.errors import LowrungError

OnReport = Callable[[int, Mapping[str, float]], None]
"""Takes the step and its metrics, by MLflow name."""


class Diverged(LowrungError):  # noqa: N818  (the name says how training ended)
    """Training left the finite numbers.

    Attributes:
        step: the optimiser step after which it was seen.
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} is not finite at step {step}. A lower train.learning_rate is the usual remedy.")
        self.step = step


class Stopped(LowrungError):  # noqa: N818
    """Training was asked to stop, and did; a checkpoint was written unless none are.

    Attributes:
        step: optimiser steps done.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


class CheckpointLoaded(LowrungError):  # noqa: N818
    """The trainer has loaded a checkpoint."""


class OnlyLoad(TrainerCallback):
    """Ends `Trainer.train` by `CheckpointLoaded` before a step.

    From a checkpoint at the end of training, the trainer would take one step too many.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises: the weights are now those of the checkpoint."""
        raise CheckpointLoaded


class StopOnRequest(TrainerCallback):
    """Ends training after the step in which it was asked to, with a checkpoint.

    Args:
        should_stop: asked after every step.
        saves: whether checkpoints are written at all.
    """

    def __init__(self, should_stop: Callable[[], bool], *, saves: bool) -> None:
        self._should_stop = should_stop
        self._saves = saves
        self.has_stopped = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks whether to stop; after the last step there is nothing to stop."""
        if state.global_step < state.max_steps and self._should_stop():
            self.has_stopped = control.should_training_stop = True
            control.should_save = self._saves


class Report(TrainerCallback):
    """Passes every step's and every evaluation's metrics on, and raises `Diverged` at the first that is not finite.

    Args:
        on_report: takes them.
        speed: gives tokens seen and tokens per second, by metric name.
    """

    def __init__(self, on_report: OnReport, speed: Callable[[], Mapping[str, float]]) -> None:
        self._on_report = on_report
        self._speed = speed
        self.history: list[tuple[int, dict[str, float]]] = []

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Passes one moment on, and remembers it for the next checkpoint."""
        self.history.append((step, dict(metrics)))
        self._on_report(step, metrics)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Checks the weights: a NaN in them need not show in this step's loss."""
        trainable = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
        if not torch.stack(torch._foreach_norm(trainable)).isfinite().all():
            raise Diverged(state.global_step, "A trainable parameter")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Reports a step's loss, gradient norm, rate and speed, or an evaluation's scores."""
        metrics = {name: logs[key] for key, name in _NAMES.items() if logs and key in logs}
        for name in ("train/loss", "eval/loss"):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise Diverged(state.global_step, name)
        if metrics:
            metrics |= self._speed()
            self.report(state.global_step, {k: v for k, v in metrics.items() if math.isfinite(v)})


_NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "eval_loss": "eval/loss",
    "eval_perplexity": "eval/perplexity",
    "eval_token_accuracy": "eval/token_accuracy",
}
"""Our metric names, by those of the trainer."""
