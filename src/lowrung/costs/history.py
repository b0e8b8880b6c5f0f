"""What earlier runs of a store measured, by which the next ones on the same machine are predicted.

A line of ``store/.costs/measured.jsonl`` is a complete run: what the formulas said of its parts, and what these took.
The nearest runs count, at most `LAST` of them, and of each ratio the median: a run beside which the machine was busy
does not move it. A line counts only where it is whole, of this machine, and of these formulas, code and libraries.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.config import machine, schema, signature, source
from lowrung.costs import time_formulas
from lowrung.costs.facts import is_whole
from lowrung.costs.prediction import Speed
from lowrung.costs.terms import Asked, Memory
from lowrung.store import layout
from lowrung.store.outcome import Outcome

LAST = 9
"""Runs that a median is taken over, the newest ones."""

LEAST = 0.2
"""Of a part's seconds, its products have this share at least: what is beside them in a small model is roughly known."""

READ_BYTES = 2**20
"""Of the file's end, which is read: some 2,000 runs. What is older is of no use beside them."""

FORMULAS = "how fast this machine multiplies matrices"
"""The source of a speed where no run was measured."""


@dataclasses.dataclass(frozen=True)
class Line:
    """What a run measured.

    Attributes:
        kinds: the run's, the narrowest first; see `_kinds`.
        speeds: operations a second of its steps, evaluations and gate, of those that it had.
        start: seconds of all else over what the formulas say of it.
        memory: the most that it held over what the formulas say of it.
    """

    kinds: Sequence[str]
    speeds: Mapping[str, float]
    start: float
    memory: float


def speed(asked: Asked, store: Path, flops_per_second: float, machines: Sequence[Mapping[str, Any]]) -> Speed:
    """How fast a run will be.

    Args:
        asked: the run.
        store: where earlier runs were noted.
        flops_per_second: how fast matrices are multiplied where it computes, for where there were none.
        machines: as `lowrung.config.machine.described` has them. The runs of the first one count that has any.
    """
    for by in machines:
        lines, which = _nearest(asked, store, by)
        if lines:
            where = "here" if by == machine.described() else f"on {by.get('processor')}"
            return _measured(asked, lines, which, flops_per_second, where)
    return Speed.unmeasured(asked, flops_per_second, FORMULAS)


def _measured(asked: Asked, lines: Sequence[Line], which: int, flops_per_second: float, where: str) -> Speed:
    """By the lines of a kind, whose number is ``which``."""
    steps = _median(lines, "steps") or flops_per_second
    return Speed(
        flops_per_second=steps,
        start_seconds=time_formulas.start_seconds(asked) * statistics.median(line.start for line in lines),
        # libraries weigh the same in other models' runs, and the rest does not
        memory_factor=statistics.median(line.memory for line in lines) if which < _OTHERS else 1.0,
        source=_in_words(which, len(lines), where),
        evaluating=_median(lines, "evaluations") or steps,
        verifying=_median(lines, "gate") or steps,
    )


def note(asked: Asked, outcome: Outcome, store: Path) -> None:
    """Notes what a run has measured, for the next predictions on this machine, where it did all that was predicted.

    Without room, or without the right to write, nothing is noted.

    Args:
        asked: the run.
        outcome: its end, with the plan's numbers beside it; see `lowrung.costs.facts`.
        store: where it is noted.
    """
    line = _line(asked, outcome)
    if line is None:
        return
    fields = {**dataclasses.asdict(line), "of": _version()}
    text = json.dumps({"seal": _seal(fields), **fields}, allow_nan=False)
    path = layout.measured_costs(store)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:  # one write, which no other writer's comes into; it begins with an end, should the last one be torn
            os.write(file, f"\n{text}\n".encode())
        finally:
            os.close(file)


def _line(asked: Asked, outcome: Outcome) -> Line | None:
    """What an outcome says; None where it is not of a whole run, or lacks a number."""
    facts, measured = outcome.facts, outcome.measurements
    if not is_whole(outcome.status, facts) or "plan" not in facts:
        return None
    try:
        work = facts["plan"]["work"]
        took = {"steps": measured["time/train_seconds"], "evaluations": measured["time/evaluation_seconds"]}
        is_gate_here = facts.get("verified_on", asked.device) == asked.device
        gate = measured.get("time/gate_seconds", 0.0)
        if gate and is_gate_here:
            took["gate"] = gate
        beside = {"steps": "step_seconds", "evaluations": "evaluation_seconds", "gate": "gate_seconds"}
        products = {name: max(took[name] - work[beside[name]], LEAST * took[name]) for name in took}
        speeds = {name: work[name] / seconds for name, seconds in products.items() if seconds > 0 and work[name] > 0}
        base_seconds = work["base"] / speeds["evaluations"]
        rest = measured["time/total_seconds"] - took["steps"] - took["evaluations"] - gate - base_seconds
        predicted = _held(Memory(**facts["plan"]["memory"]), asked.train.rank_count, with_gate=is_gate_here)
        start = max(rest, 0.1) / time_formulas.start_seconds(asked)
        held = measured["memory/peak_bytes"] / predicted
    except (KeyError, TypeError, ZeroDivisionError):
        return None
    line = Line(_kinds(asked, facts.get("machine", machine.described())), speeds, start, held)
    return line if all(0 < number < math.inf for number in (*speeds.values(), start, held)) else None


def _held(memory: Memory, ranks: int, *, with_gate: bool) -> float:
    """What all ranks were predicted to hold; the gate is the first one's, if it computed on their device."""
    first = memory.peak if with_gate else memory.without_gate
    return first + (ranks - 1) * memory.without_gate


_OTHERS = 2
"""The number of the kind of all runs of a machine, other models' among them."""


def _kinds(asked: Asked, by: Any) -> tuple[str, str, str]:
    """Names that runs share: of equal settings; of a model and a method at any rank, length and batch; of a machine.

    What a model costs follows from its sizes: where its weights are other ones, it is the same kind.
    """
    held = [by, asked.device, asked.dtype, asked.threads, asked.train.rank_count]
    model = [asked.base, asked.model.quantization, asked.lora.method, asked.model.attn_implementation]
    settings = [asked.trained, asked.rows, asked.held_out, asked.verify, asked.train.batch_size]
    ways = [asked.train.gradient_checkpointing, asked.train.packing, asked.lora.use_dora, asked.lora.dropout > 0]
    parts = (held + model + ways + settings, held + model, held)
    return tuple(schema.digest([_plain(part) for part in each]) for each in parts)  # type: ignore[return-value]


def _plain(part: Any) -> Any:
    is_value = dataclasses.is_dataclass(part) and not isinstance(part, type)
    return dataclasses.asdict(part) if is_value else part


def _nearest(asked: Asked, store: Path, by: Any) -> tuple[Sequence[Line], int]:
    """The newest lines of the narrowest kind that has any on a machine, and the kind's number."""
    path = layout.measured_costs(store)
    try:
        stat = path.stat()
    except OSError:
        return (), _OTHERS + 1
    known = _lines(path, stat.st_size, stat.st_mtime_ns, _version())
    for which, kind in enumerate(_kinds(asked, by)):
        if lines := known.get(kind):
            return lines[-LAST:], which
    return (), _OTHERS + 1


@functools.lru_cache(maxsize=4)
def _lines(path: Path, size: int, _: int, version: str) -> Mapping[str, Sequence[Line]]:
    """The lines of the file as it is at present that are whole and of this version, by each of their kinds."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in _read(path, size, version):
        for kind in line.kinds:
            found[kind].append(line)
    return found


def _read(path: Path, size: int, version: str) -> Iterator[Line]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, size - READ_BYTES))
            written = file.read(READ_BYTES)
    except OSError:
        return
    for text in written.splitlines():
        try:
            fields = json.loads(text)
            seal = fields.pop("seal")
            if seal == _seal(fields) and fields.pop("of") == version:
                yield Line(**fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # torn, or something else
            continue


def _seal(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def _version() -> str:
    """A hash of what a line's numbers depend on beside the machine: formulas, what trains, libraries."""
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(Path(__file__).parent.glob("*.py"))]
    return schema.digest([code, source.digest(), signature.versions(signature.recorded())])


def _median(lines: Sequence[Line], part: str) -> float | None:
    measured = [line.speeds[part] for line in lines if part in line.speeds]
    return statistics.median(measured) if measured else None


def _in_words(which: int, count: int, where: str) -> str:
    of = ("of these settings", "of this model", "of other settings or models")[which]
    return f"{count} earlier run{'s' if count > 1 else ''} {of} {where}"
