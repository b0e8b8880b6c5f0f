"""What a launcher asks SLURM for, and how SLURM writes times, amounts of memory and generic resources."""

import dataclasses
import re
from collections.abc import Iterator

from lowrung.engine import durations

LEAST_MINUTES = 5
"""The shortest time that leaves a job some training between its start and the warning that its time is nearly up."""

_SLURM_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_MEMORY = re.compile(r"(\d+)([KMGT])B?", re.IGNORECASE)
_MEGABYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a launcher asks for; None leaves it to the cluster.

    Attributes:
        partition: one, or several with commas.
        account: that pays.
        qos: quality of service.
        gres: generic resources, as SLURM names them.
        time: as `minutes` takes it.
        memory: with its unit.
        constraint: features.
        cpus: of each job.
        gpus: of each job.
    """

    partition: str | None
    account: str | None
    qos: str | None
    gres: str | None
    time: str | None
    memory: str | None
    constraint: str | None
    cpus: int
    gpus: int


def gpus_of(gres: str) -> dict[str, int]:
    """The GPUs among generic resources such as ``gpu:a100:4(S:0-1),nvme:1``, by kind."""
    found: dict[str, int] = {}
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *kind, number = part.split(":") if part.rpartition(":")[2].isdecimal() else (*part.split(":"), "1")
        if name == "gpu" and number.isdecimal():
            found[":".join(kind)] = found.get(":".join(kind), 0) + int(number)
    return found


def minutes(time: str) -> float | None:
    """The minutes of a duration such as ``90m`` or ``1h30m``, or of SLURM's ``1-00:00:00``; None where it is neither.

    A number alone is neither: it would be seconds here, and minutes in SLURM.
    """
    if time.isdecimal():
        return None
    if (seconds := durations.seconds(time)) is not None:
        return seconds / 60
    if not (match := _SLURM_TIME.fullmatch(time)):
        return None
    days, *parts = (None if part is None else int(part) for part in match.groups())
    known = [part for part in parts if part is not None]
    units = (60, 1, 1 / 60) if days is not None or len(known) == 3 else (1, 1 / 60)
    total = (days or 0) * 1440 + sum(part * unit for part, unit in zip(known, units, strict=False))
    return total or None


def megabytes(memory: str) -> float | None:
    """The megabytes of an amount such as ``32G``; None where it is none."""
    match = _MEMORY.fullmatch(memory)
    return float(match[1]) * _MEGABYTES[match[2].upper()] if match else None


def gres(wanted: Wanted, has_gpus: bool) -> str | None:
    """What jobs ask for: the GPUs of a trial where the cluster has some, and what else was named."""
    if wanted.gres and gpus_of(wanted.gres):
        return wanted.gres
    return ",".join(filter(None, [wanted.gres, f"gpu:{wanted.gpus}" if has_gpus else ""])) or None


def problems(wanted: Wanted) -> Iterator[str]:
    """What is wrong with the words of the settings, whatever the cluster has."""
    if wanted.time is not None:
        taken = minutes(wanted.time)
        if taken is None or taken < LEAST_MINUTES:
            yield (
                "hydra.launcher.time must be a duration such as 90m or 4h, or as SLURM writes it (1-00:00:00), and at"
                f" least {LEAST_MINUTES}m, but is {wanted.time!r}. It ends a job; its run goes on in the next one."
            )
    if wanted.memory is not None and megabytes(wanted.memory) is None:
        yield f"hydra.launcher.memory must be a number and its unit, such as 32G, but is {wanted.memory!r}."
    asked = gpus_of(wanted.gres or "")
    if asked and (len(asked) > 1 or sum(asked.values()) != wanted.gpus):
        yield (
            "hydra.launcher.gres must ask for GPUs of one kind, as many as hydra.launcher.gpus_per_trial, but is"
            f" {wanted.gres!r}, and gpus_per_trial is {wanted.gpus}. Change one of them."
        )
