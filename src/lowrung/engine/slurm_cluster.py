"""What a SLURM cluster has, and what of a launcher's settings it cannot give: asked before anything is submitted."""

import dataclasses
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence

from lowrung.engine import durations, slurm_commands
from lowrung.engine.slurm_commands import NoAnswer
from lowrung.engine.slurm_words import Wanted, gpus_of, gres, megabytes, minutes
from lowrung.errors import did_you_mean, some

_FIELDS = "%P|%c|%m|%G|%f|%l"


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Nodes of a partition that are alike.

    Attributes:
        partition: its name.
        is_default: whether jobs go there that name none.
        cpus: of each.
        megabytes: of each one's memory.
        gpus: of each, by kind; SLURM may not know the kind.
        features: of each.
        minutes: that a job may take.
    """

    partition: str
    is_default: bool
    cpus: int
    megabytes: float
    gpus: dict[str, int]
    features: frozenset[str]
    minutes: float

    @classmethod
    def read(cls, line: str) -> "Nodes":
        """Those of a line of sinfo's."""
        partition, cpus, memory, gres, features, time = line.split("|")
        return cls(
            partition=partition.rstrip("*"),
            is_default=partition.endswith("*"),
            cpus=int(cpus.rstrip("+")),
            megabytes=float(memory.rstrip("+")),
            gpus=gpus_of(gres),
            features=frozenset(features.split(",")),
            minutes=minutes(time) or math.inf,
        )

    def count(self, kind: str) -> int:
        """How many GPUs each has: of a kind, or of all where it is empty."""
        return self.gpus.get(kind, 0) if kind else sum(self.gpus.values())


def nodes() -> list[Nodes]:
    """All nodes of the cluster, by what they have.

    Raises:
        NoAnswer: when SLURM does not answer.
    """
    listed = slurm_commands.ask("sinfo", "--all", "--noheader", "--exact", f"--format={_FIELDS}").splitlines()
    return [Nodes.read(line.strip()) for line in listed if line.strip()]


def command_problems() -> list[str]:
    """Which of SLURM's commands are missing here."""
    missing = [name for name in slurm_commands.NEEDED if shutil.which(name) is None]
    if not missing:
        return []
    return [
        f"hydra/launcher=slurm needs SLURM's commands, but {', '.join(missing)} are not on PATH. Start the sweep on a"
        " login node, or in a job of its own."
    ]


def problems(wanted: Wanted) -> tuple[list[str], bool]:
    """What the cluster cannot give, all of it, and whether jobs run on GPUs."""
    try:
        known = nodes()
    except NoAnswer as error:
        return [f"SLURM must answer, but it does not: {error}. `sinfo` shows its state."], False
    named = wanted.partition.split(",") if wanted.partition else []
    partitions = list(dict.fromkeys(each.partition for each in known))
    absent = [name for name in named if name not in partitions]
    of_these = [each for each in known if (each.partition in named if named else each.is_default)]
    found = [
        f"hydra.launcher.partition must be one of the cluster's, but is {name!r}; it has {some(partitions, 8)}."
        f"{did_you_mean(name, partitions)}"
        for name in absent
    ]
    if not named and not of_these:
        found.append(f"hydra.launcher.partition must be set: the cluster has no default. It has {some(partitions, 8)}.")
    elif of_these:
        found += _room_problems(wanted, of_these)
    has_gpus = any(each.gpus for each in of_these)
    rest = {} if found else _amounts(wanted, has_gpus)  # of what is wrong by now SLURM would say it again
    found += _refusals(wanted, {"partition": None if absent else wanted.partition, **rest})
    return found, has_gpus


def _room_problems(wanted: Wanted, of_these: Sequence[Nodes]) -> Iterator[str]:
    """What no node of the partitions has."""
    kind = next(iter(gpus_of(wanted.gres or "")), "")
    memory = megabytes(wanted.memory or "") or 0.0
    gpus = wanted.gpus if any(each.gpus for each in of_these) or wanted.gpus > 1 or kind else 0
    where = ", ".join(dict.fromkeys(each.partition for each in of_these))
    most_memory = max(each.megabytes for each in of_these)
    has = [
        ("cpus_per_trial", wanted.cpus, max(each.cpus for each in of_these), wanted.cpus, "CPUs"),
        ("gpus_per_trial", gpus, max(each.count(kind) for each in of_these), wanted.gpus, f"GPUs {kind}".strip()),
        ("memory", memory, most_memory, wanted.memory, f"{most_memory / 1024:.1f}G"),
    ]
    lacks = [(name, shown, most, unit) for name, asked, most, shown, unit in has if asked > most]
    for name, shown, most, unit in lacks:
        largest = unit if name == "memory" else f"{most:g} {unit}"
        yield (
            f"hydra.launcher.{name} must fit on a node, but is {shown}, and the largest of partition {where} has"
            f" {largest}. Lower it, or name another partition."
        )
    features = frozenset().union(*(each.features for each in of_these))
    if wanted.constraint and re.fullmatch(r"\w+", wanted.constraint) and wanted.constraint not in features:
        yield (
            f"hydra.launcher.constraint must be a feature of a node, but is {wanted.constraint!r}, and those of"
            f" partition {where} have {', '.join(sorted(features - {'(null)'})) or 'none'}."
        )
    elif not lacks and not any(
        each.cpus >= wanted.cpus and each.count(kind) >= gpus and each.megabytes >= memory for each in of_these
    ):
        yield (
            f"One node must have all that a trial asks for, but none of partition {where} has {wanted.cpus} CPUs,"
            f" {gpus} GPUs and the memory together. Lower one of them."
        )
    longest = max(each.minutes for each in of_these)
    if wanted.time and (minutes(wanted.time) or 0.0) > longest:
        yield (
            f"hydra.launcher.time must be within the limit of partition {where}, {durations.text(60 * longest)}, but"
            f" is {wanted.time}. Runs that are not done by then go on in further jobs."
        )


def _refusals(wanted: Wanted, others: Mapping[str, str | None]) -> Iterator[str]:
    """What SLURM itself says of account and quality of service; it tests a job without submitting it."""
    named = {"account": wanted.account, "qos": wanted.qos}
    said = _refusal(**others, **named)
    if said is None:
        return
    blamed = [
        (name, value, why) for name, value in named.items() if value and (why := _refusal(**others, **{name: value}))
    ]
    for name, value, why in blamed:
        yield f"hydra.launcher.{name} must be one that SLURM takes from you, but is {value!r}: {why}."
    if not blamed:
        asked = ", ".join(
            f"{name}={value}" for name, value in {**named, "partition": others["partition"]}.items() if value
        )
        yield f"SLURM must take a job of yours with {asked or 'no account named'}, but it does not: {said}."


def _amounts(wanted: Wanted, has_gpus: bool) -> dict[str, str | None]:
    """What a job takes, for sbatch: some clusters refuse jobs without a time, or without GPUs where there are some."""
    time = minutes(wanted.time or "")
    return {
        "time": None if time is None else f"{math.ceil(time)}",
        "mem": wanted.memory,
        "cpus-per-task": f"{wanted.cpus}",
        "constraint": wanted.constraint,
        "gres": gres(wanted, has_gpus),
    }


def _refusal(**options: str | None) -> str | None:
    flags = [f"--{name}={value}" for name, value in options.items() if value]
    try:
        slurm_commands.ask("sbatch", "--test-only", *flags, "--wrap=true")
    except NoAnswer as error:
        return str(error).removeprefix("allocation failure: ").removeprefix("sbatch: error: ")
    return None
