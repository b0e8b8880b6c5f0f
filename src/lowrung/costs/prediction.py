"""A run's predicted memory, time and disk, as they are shown, recorded and held to limits."""

import dataclasses
from collections.abc import Mapping

from lowrung.costs import memory_formulas, time_formulas
from lowrung.costs.terms import Asked, Memory, Work


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a machine computes runs of a kind, and how far the formulas are from what was measured there.

    Attributes:
        flops_per_second: of a training step.
        start_seconds: of a run before its first step and after its last, reading the model included.
        memory_factor: what earlier runs held at most, over what the formulas say of them; 1 where there are none.
        source: where these are from, in words: ``3 earlier runs of this model here``.
        evaluating: operations a second of evaluations; None is those of a step.
        verifying: the same of the gate.
    """

    flops_per_second: float
    start_seconds: float
    memory_factor: float
    source: str
    evaluating: float | None = None
    verifying: float | None = None

    @classmethod
    def unmeasured(cls, asked: Asked, flops_per_second: float, source: str) -> "Speed":
        """That of a machine on which no run was measured, by how fast it multiplies large matrices.

        Args:
            asked: the run.
            flops_per_second: of such a product, in the run's precision and with its threads.
            source: where this is from, in words.
        """
        return cls(flops_per_second, time_formulas.start_seconds(asked), 1.0, source)

    def seconds(self, work: Work) -> float:
        """Of a run that computes this."""
        beside = self.start_seconds + work.step_seconds + work.evaluation_seconds + work.gate_seconds
        return (
            beside
            + work.steps / self.flops_per_second
            + (work.evaluations + work.base) / (self.evaluating or self.flops_per_second)
            + work.gate / (self.verifying or self.flops_per_second)
        )


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a run is predicted to take.

    Attributes:
        trainable: parameters.
        memory: bytes by part, by the formulas.
        memory_bytes: the peak, corrected by what earlier runs measured; of one of its ranks, where it has several.
        seconds: of the whole run, alone on its slot.
        work: operations by part.
        disk_bytes: that the run leaves in the store.
        source: where the speed is from, in words.
        guesses: what was not known, each with what was taken in its place.
        ranks: the processes that train it together.
    """

    trainable: int
    memory: Memory
    memory_bytes: float
    seconds: float
    work: Work
    disk_bytes: float
    source: str
    guesses: tuple[str, ...]
    ranks: int = 1

    @property
    def numbers(self) -> Mapping[str, float]:
        """By metric name: what constraints may name, and what is recorded beside the facts.

        Memory is that of all ranks together, as in ``memory/peak_bytes``.
        """
        return {
            "params/trainable": float(self.trainable),
            "plan/memory_bytes": self.memory_bytes * (1 + (self.ranks - 1) * self._share_of_others),
            "plan/seconds": self.seconds,
            "plan/disk_bytes": self.disk_bytes,
        }

    @property
    def _share_of_others(self) -> float:
        """Of the first rank's memory, what each of the others has: the gate is the first one's alone."""
        return self.memory.without_gate / self.memory.peak if self.ranks > 1 else 0.0

    def that_must_fit(self, device: str) -> "Prediction":
        """The same with the memory that a run must find on its device, to be held to what there is.

        On a GPU that is without the gate, which goes to the CPU where the GPU's memory does not suffice.

        Args:
            device: ``cpu`` or ``cuda``.
        """
        if device == "cpu":
            return self
        return dataclasses.replace(self, memory_bytes=self.memory_bytes * self.memory.without_gate / self.memory.peak)


PLANNED = ("params/trainable", "plan/memory_bytes", "plan/seconds", "plan/disk_bytes")
"""The names of `Prediction.numbers`."""


def predict(asked: Asked, speed: Speed) -> Prediction:
    """What a run will take on a machine of this speed."""
    memory, work = memory_formulas.memory(asked), time_formulas.work(asked)
    return Prediction(
        trainable=asked.trained.trainable,
        memory=memory,
        memory_bytes=memory.peak * speed.memory_factor,
        seconds=speed.seconds(work),
        work=work,
        disk_bytes=_disk(asked),
        source=speed.source,
        guesses=asked.guesses,
        ranks=asked.train.rank_count,
    )


def _disk(asked: Asked) -> float:
    """What a run leaves: what it trained, and with ``verify.keep_merged`` a whole model."""
    merged = asked.base.parameters * memory_formulas.BYTES[asked.verify.merge_dtype] if asked.verify.keep_merged else 0
    return asked.trained.trainable_bytes + merged
