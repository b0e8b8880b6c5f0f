"""What earlier runs of a store measured, by which the next ones on the same machine are predicted."""

from pathlib import Path

from lowrung.costs.formulas import Asked
from lowrung.costs.prediction import Prediction, Speed

START_SECONDS = 10.0
"""Of a run before its first step and after its last, where none has been measured."""

SHARE_OF_PRODUCTS = 0.5
"""Of the speed of a product of matrices, how much a training step reaches."""


def speed(asked: Asked, store: Path, flops_per_second: float) -> Speed:
    """How fast runs like this one are on this machine.

    Args:
        asked: the run.
        store: where earlier runs were noted.
        flops_per_second: how fast this machine multiplies matrices, for where there were none.
    """
    return Speed(flops_per_second * SHARE_OF_PRODUCTS, START_SECONDS, 1.0, "how fast this machine multiplies matrices")


def note(asked: Asked, predicted: Prediction, store: Path, *, seconds: float, memory_bytes: float) -> None:
    """Notes what a complete run has measured, for the next predictions on this machine.

    Args:
        asked: the run.
        predicted: what was predicted of it.
        store: where it is noted.
        seconds: of the whole run.
        memory_bytes: the most that it held.
    """
