"""A run that is to be predicted, and what is predicted of it by part. Values alone."""

import dataclasses
from collections.abc import Mapping

from lowrung.config.schema import LoraConf, ModelConf, TrainConf, VerifyConf
from lowrung.costs.sizes import BaseSizes, RowSizes, TrainedSizes


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
        max_length: the most tokens of a row, which packed rows have.
        answered: held-out rows that the trained model answers, for ``data.metrics``.
        is_base_kept: whether what the base says of the held-out rows is in the store.
        is_tracking: whether the process that trains it sends to MLflow, too.
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
    max_length: int = 0
    answered: int = 0
    is_base_kept: bool = False
    is_tracking: bool = False

    @property
    def is_quantized(self) -> bool:
        """Whether the base's layers are held in 8 or 4 bits."""
        return self.model.quantization != "none"

    @property
    def guesses(self) -> tuple[str, ...]:
        """What was not known, each with what was taken in its place."""
        parts = (self.base, self.trained, self.rows, self.held_out)
        return tuple(dict.fromkeys(guess for part in parts for guess in part.guesses))


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a run holds at most, by part: in main memory on a CPU, else on its GPU.

    A run goes through phases, and what it holds at most is the largest of them, not their sum.

    Attributes:
        libraries: Python and what it has imported.
        weights: the base's.
        adapter: what is trained beside the base; 0 where the base itself is.
        gradients: of what is trained.
        optimizer: the optimiser's state.
        activations: what the forward pass keeps for the backward pass.
        logits: of a batch's labelled tokens, with what the loss makes of them.
        gate: what the gate holds at most, libraries and weights included; it begins when training has given all back.
        loading: the same while the base is read.
        evaluation: the same while the held-out rows are scored.
    """

    libraries: float
    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    gate: float
    loading: float = 0.0
    evaluation: float = 0.0

    @property
    def parts(self) -> Mapping[str, float]:
        """Of training, by name: what adds up to its peak."""
        phases = ("gate", "loading", "evaluation")
        return {name: held for name, held in dataclasses.asdict(self).items() if name not in phases}

    @property
    def training(self) -> float:
        """The most that training holds."""
        return sum(self.parts.values())

    @property
    def without_gate(self) -> float:
        """The most that a run holds whose gate computes elsewhere, as for all ranks but the first."""
        return max(self.training, self.loading, self.evaluation)

    @property
    def peak(self) -> float:
        """The most that the run holds; of several ranks, the first one."""
        return max(self.without_gate, self.gate)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a run computes, by part, in floating point operations; a part's seconds are these over a speed, and more.

    What passes over memory counts as the operations that large products could have done meanwhile. What no faster
    product shortens is in seconds: files and tokenizers that are read, and small operations that are started.

    Attributes:
        steps: of all training steps.
        evaluations: of the held-out rows, as often as what is trained is scored on them.
        gate: of the merged-vs-adapter gate.
        base: of the base's scores of the held-out rows; 0 where they are in the store, from a run that shares them.
        step_seconds: of the steps beside their operations.
        evaluation_seconds: of the evaluations.
        gate_seconds: of the gate.
    """

    steps: float
    evaluations: float
    gate: float
    base: float = 0.0
    step_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    gate_seconds: float = 0.0

    @property
    def total(self) -> float:
        """Operations of the run."""
        return self.steps + self.evaluations + self.gate + self.base
