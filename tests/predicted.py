"""Predictions of simulated runs, and what runs as predicted measure."""

import dataclasses

from lowrung.costs import memory_formulas, time_formulas
from lowrung.costs.prediction import Prediction
from lowrung.costs.terms import Asked, Memory, Work
from lowrung.store.outcome import Outcome, Status

FLOPS = 1e11


def predicted(*, trainable: int = 1, memory_bytes: float = 1.0, seconds: float = 0.0) -> Prediction:
    """What a run will take that holds its memory in training and computes nothing."""
    nothing = dict.fromkeys((field.name for field in dataclasses.fields(Memory)), 0.0)
    memory = Memory(**{**nothing, "activations": memory_bytes})
    work = Work(**dict.fromkeys((field.name for field in dataclasses.fields(Work)), 0.0))
    return Prediction(trainable, memory, memory_bytes, seconds, work, 1.0, "simulated", ())


def outcome(run: Asked, slower: float = 1.0, held: float = 1.0, **changes) -> Outcome:
    """Of a run that took so many times what the formulas say at `FLOPS`, and held so many times the memory."""
    work, memory = time_formulas.work(run), memory_formulas.memory(run)
    steps = work.step_seconds + work.steps / FLOPS * slower
    evaluations = work.evaluation_seconds + work.evaluations / FLOPS * slower
    gate = work.gate_seconds + work.gate / FLOPS * slower
    start = time_formulas.start_seconds(run) * slower
    measured = {
        "time/train_seconds": steps,
        "time/evaluation_seconds": evaluations,
        "time/gate_seconds": gate,
        "time/total_seconds": steps + evaluations + gate + start + work.base / FLOPS * slower,
        "memory/peak_bytes": memory.peak * held,
    }
    plan = {"memory": dataclasses.asdict(memory), "work": dataclasses.asdict(work)}
    made = Outcome(Status.COMPLETE, measurements=measured, facts={"plan": plan, "verified_on": "cpu"})
    return dataclasses.replace(made, **changes)
