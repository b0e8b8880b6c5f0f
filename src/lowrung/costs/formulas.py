"""The model of a run's memory and time: what is held and computed, part by part, each by one formula."""

import dataclasses

from lowrung.config.schema import LoraConf, ModelConf, TrainConf, VerifyConf
from lowrung.costs.sizes import BaseSizes, RowSizes, TrainedSizes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of a number, by the precision's name."""

LIBRARIES = {"cpu": 600_000_000, "cuda": 0}
"""Bytes that Python and its libraries hold. On a GPU only what torch allocates there is counted."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A run that is to be predicted.

    Attributes:
        base: the base's sizes.
        trained: of what is trained.
        rows: of the training rows.
        held_out: of the held-out rows.
        model: the base model.
        lora: the adapter.
        train: how it is trained.
        verify: the gate.
        steps: optimiser steps.
        device: ``cpu`` or ``cuda``.
        dtype: the precision that the base is held in, ``auto`` being resolved.
        threads: CPU threads.
        answered: held-out rows that the trained model answers, for ``data.metrics``.
        is_base_kept: whether what the base says of the held-out rows is in the store.
    """

    base: BaseSizes
    trained: TrainedSizes
    rows: RowSizes
    held_out: RowSizes
    model: ModelConf
    lora: LoraConf
    train: TrainConf
    verify: VerifyConf
    steps: int
    device: str
    dtype: str
    threads: int
    answered: int = 0
    is_base_kept: bool = False

    @property
    def guesses(self) -> tuple[str, ...]:
        """What was not known, each with what was taken in its place."""
        parts = (self.base, self.trained, self.rows, self.held_out)
        return tuple(dict.fromkeys(guess for part in parts for guess in part.guesses))


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a run holds at most, by part: in main memory on a CPU, else on its GPU.

    Attributes:
        libraries: Python and what it has imported.
        weights: the base's.
        adapter: what is trained beside the base; 0 where the base itself is.
        gradients: of what is trained.
        optimizer: the optimiser's state.
        activations: what the forward pass keeps for the backward pass.
        logits: of a batch's labelled tokens, with what the loss makes of them.
        gate: what the gate holds at most, libraries and weights included; it begins when training has given all back.
    """

    libraries: float
    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    gate: float

    @property
    def training(self) -> float:
        """The most that training holds."""
        return (
            self.libraries
            + self.weights
            + self.adapter
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
        )

    @property
    def peak(self) -> float:
        """The most that the run holds."""
        return max(self.training, self.gate)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a run computes, by part, in floating point operations; a part's seconds are these over a speed.

    Attributes:
        steps: of all training steps.
        evaluations: of the held-out rows, as often as what is trained is scored on them.
        gate: of the merged-vs-adapter gate.
        base: of what is computed of the base alone, once for all runs that share it; 0 where it is in the store.
    """

    steps: float
    evaluations: float
    gate: float
    base: float = 0.0

    @property
    def total(self) -> float:
        """Of the run."""
        return self.steps + self.evaluations + self.gate + self.base


def memory(asked: Asked) -> Memory:
    """The bytes of a run, by part."""
    held = BYTES[asked.dtype]
    bits = {"none": 8 * held, "int8": 8, "nf4": 4.127 if asked.model.double_quantization else 4.5}
    in_full = asked.base.parameters - asked.base.quantizable
    weights = in_full * held + asked.base.quantizable * bits[asked.model.quantization] / 8
    batch = asked.train.batch_size / asked.train.rank_count
    tokens = batch * asked.rows.longest_of(max(1, round(batch)))
    length = tokens / batch
    saved = asked.trained.saved_per_token + asked.trained.saved_per_pair * length
    labelled = batch * asked.rows.mean_labelled
    own = 0 if asked.lora.is_full else asked.trained.trainable_bytes
    libraries = LIBRARIES[asked.device]
    return Memory(
        libraries=libraries,
        weights=weights,
        adapter=own,
        gradients=asked.trained.trainable_bytes,
        optimizer=2 * asked.trained.trainable_bytes,
        activations=tokens * saved,
        logits=3 * 4 * labelled * asked.base.vocabulary,
        gate=libraries + 2 * weights if asked.verify.enabled else 0,
    )


def work(asked: Asked) -> Work:
    """The operations of a run, by part."""
    train, base = asked.train, asked.base
    rows = train.batch_size * train.gradient_accumulation_steps
    passes = 3 if asked.lora.is_full else 2
    passes += 1 if train.gradient_checkpointing else 0
    evaluations = -(-asked.steps // train.eval_steps)
    scoring = asked.held_out.rows * _forward(asked, asked.held_out)
    prompts = asked.verify.prompts if asked.verify.enabled else 0
    return Work(
        steps=asked.steps * rows * passes * _forward(asked, asked.rows),
        evaluations=evaluations * scoring,
        gate=4 * prompts * _forward(asked, asked.held_out) + prompts * asked.verify.new_tokens * 4 * base.parameters,
        base=0.0 if asked.is_base_kept else scoring,
    )


def start_seconds(asked: Asked) -> float:
    """Seconds before the first step and after the last: the base is read, what was trained is written."""
    return 3.0


def _forward(asked: Asked, rows: RowSizes) -> float:
    """Operations of a row's forward pass, with the head at its labelled tokens."""
    length = rows.mean_tokens
    body = length * (asked.trained.flops_per_token + asked.trained.flops_per_pair * length)
    return body + 2 * rows.mean_labelled * asked.base.width * asked.base.vocabulary
