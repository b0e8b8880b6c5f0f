"""A machine that is not this one: what a plan is made for."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from lowrung.config import signature
from lowrung.costs import units

_FOR = "hydra.sweeper.plan_for"
LEAST = 1e6
"""Bytes: less was meant to be something else, as 80 of a GPU of 80 GB."""

_EXAMPLE = f"Write {_FOR}='{{gpus:1,memory:80GB}}', or {{gpus:0,memory:64GB}} for a machine without a GPU."


@dataclasses.dataclass(frozen=True)
class Machine:
    """What is assumed of it.

    Attributes:
        gpus: that it has; None is those of this machine.
        memory: bytes of each GPU, or of main memory where there is none; None is not known.
        flops_per_second: that products of matrices reach there; None is not known.
    """

    gpus: int | None
    memory: float | None
    flops_per_second: float | None

    @classmethod
    def of(cls, written: Mapping[str, Any] | None) -> "Machine | None":
        """Reads ``hydra.sweeper.plan_for``, which `problems` has checked; None where there is none."""
        if written is None:
            return None
        speed = written.get("tflops")
        return cls(written.get("gpus"), units.amount(written.get("memory")), None if speed is None else speed * 1e12)


MACHINE: ContextVar[Machine | None] = ContextVar("machine", default=None)
"""The machine that this process plans for; None is this one."""


@contextlib.contextmanager
def assume(machine: Machine | None) -> Iterator[None]:
    """Has this process take another machine for its own while the block runs."""
    if machine is None:
        yield
        return
    kind = signature.device_kind() if machine.gpus is None else "cuda" if machine.gpus else "cpu"
    before = MACHINE.set(machine)
    try:
        with signature.jobs_on(kind):
            yield
    finally:
        MACHINE.reset(before)


def problems(written: Any, *, is_dry_run: bool) -> Iterator[str]:
    """What is wrong with ``hydra.sweeper.plan_for`` as it was written."""
    if written is None:
        return
    if not is_dry_run:
        yield f"{_FOR} is for plans alone, since runs compute on this machine. Add hydra.sweeper.dry_run=true."
    if not isinstance(written, Mapping) or not written or not set(written) <= {"gpus", "memory", "tflops"}:
        yield f"{_FOR} must be a dict of gpus, memory and tflops, or of some of these, but is {written!r}. {_EXAMPLE}"
        return
    if "gpus" in written and not (_is_whole(written["gpus"]) and written["gpus"] >= 0):
        yield f"{_FOR}.gpus must be a whole number of at least 0, but is {written['gpus']!r}. {_EXAMPLE}"
    if "memory" in written and (units.amount(written["memory"]) or 0) < LEAST:
        yield (
            f"{_FOR}.memory must be an amount such as 80GB (10^9 bytes each) or 80GiB (2^30), but is"
            f" {written['memory']!r}. Its units are {', '.join(units.BYTES)}."
        )
    if "tflops" in written and not (_is_number(written["tflops"]) and 0 < written["tflops"] < float("inf")):
        yield (
            f"{_FOR}.tflops must be a number above 0, but is {written['tflops']!r}. It counts the operations, in 10^12"
            " a second, that products of matrices reach there in the precision of the runs."
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
