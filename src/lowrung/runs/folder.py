"""A run's folder before the run: the result that it may hold already, and what is cleared for a new start."""

import dataclasses
import shutil
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from lowrung.config import signature
from lowrung.config.schema import Config
from lowrung.store import atomic, mailbox
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status

if TYPE_CHECKING:
    from lowrung.finetune.preflight import Preflight


def kept_outcome(folder: RunFolder, also: str | None = None) -> Outcome | None:
    """The result of a run that need not be trained again, or None.

    Args:
        folder: the run's.
        also: a further status that is kept. A pruned run is a result only in the study that pruned it.
    """
    outcome = Outcome.read(folder.outcome)
    statuses = {Status.COMPLETE, Status.DIVERGED} | ({Status.PRUNED} if also == Status.PRUNED else set())
    return outcome if outcome is not None and outcome.status in statuses else None


def prepare_folder(folder: RunFolder, config: Config, preflight: "Preflight", threads: int) -> None:
    """Deletes what an earlier attempt left, except its checkpoints, and writes the run's config and environment.

    Raises:
        StoreError: when another process works in the folder; then nothing has changed.
    """
    environment = signature.environment(
        model_fingerprint=preflight.model_fingerprint,
        data_fingerprint=preflight.data_fingerprint,
        tokens=preflight.data_folder.name,
        threads=threads,
    )
    with atomic.lock(folder.lock):
        mailbox.clear(folder.path)
        atomic.remove_leftovers(folder.path)
        folder.outcome.unlink(missing_ok=True)
        for stale in (folder.adapter, folder.model, folder.merged, folder.scratch):
            shutil.rmtree(stale, ignore_errors=True)
        atomic.write_text(folder.config, OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))
        atomic.write_json(folder.environment, environment)
