"""The memory that one run of a sweep has of its device, and what it shares it with."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lowrung.config import signature
from lowrung.config.schema import Config
from lowrung.costs import units
from lowrung.costs.prediction import Prediction
from lowrung.engine import memory
from lowrung.sweeps import workers
from lowrung.sweeps.plan import is_elsewhere


@dataclasses.dataclass(frozen=True)
class Room:
    """What a run may hold at most.

    Attributes:
        bytes: of one run, or of each of its ranks; None where it is not known.
        free: what of it nothing else uses now; None where that is not known.
        name: what it is a part of, in words.
        at_once: how many runs share it.
    """

    bytes: float | None
    free: float | None
    name: str
    at_once: int

    def fits(self, found: Prediction) -> bool | None:
        """Whether a run fits; None where the room is not known."""
        return None if self.bytes is None else found.memory_bytes <= self.bytes


def of_run(config: Config, launcher: Mapping[str, Any], slots: int) -> Room:
    """The room of a run of this sweep: on a CPU all runs share main memory, on a GPU those that share the GPU.

    On a GPU it is what CUDA leaves to each process.

    Args:
        config: the run's.
        launcher: the fields of ``hydra.launcher``.
        slots: how many runs there are at a time.
    """
    if is_elsewhere(launcher):
        asked = units.amount(_of_slurm(launcher.get("memory")))
        if asked is not None:
            asked = asked / config.train.rank_count if signature.device_kind() == "cpu" else None
        return Room(asked, None, "hydra.launcher.memory", 1)
    if signature.device_kind() == "cpu":
        return _shared(memory.main(), slots, 1.0 / config.train.rank_count)
    per_trial = float(launcher.get("gpus_per_trial", 1))
    sharing = workers.sharing(launcher, slots) if per_trial >= 1 else round(1 / per_trial)
    spread = per_trial if config.model.device_map == "auto" and per_trial > 1 else 1.0
    return _shared(memory.of_gpu(), sharing, spread)


def _of_slurm(asked: object) -> object:
    """SLURM's ``32G`` is 32 GiB, and a number without a unit is MiB."""
    text = str(asked).upper().removesuffix("B")
    return f"{text}iB" if text[-1:] in "KMGT" else f"{text}MiB"


def _shared(device: memory.Room | None, at_once: int, devices: float) -> Room:
    if device is None:
        return Room(None, None, "memory of the device", at_once)
    total, free = (
        None if whole is None else max(0.0, (whole / at_once - device.context) * devices)
        for whole in (device.total, device.free)
    )
    return Room(total, free, device.name, at_once)
