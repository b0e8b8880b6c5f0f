"""Predictions of simulated runs."""

import dataclasses

from lowrung.costs.prediction import Prediction
from lowrung.costs.terms import Memory, Work


def predicted(*, trainable: int = 1, memory_bytes: float = 1.0, seconds: float = 0.0) -> Prediction:
    """What a run will take that holds its memory in training and computes nothing."""
    nothing = dict.fromkeys((field.name for field in dataclasses.fields(Memory)), 0.0)
    memory = Memory(**{**nothing, "activations": memory_bytes})
    work = Work(**dict.fromkeys((field.name for field in dataclasses.fields(Work)), 0.0))
    return Prediction(trainable, memory, memory_bytes, seconds, work, 1.0, "simulated", ())
