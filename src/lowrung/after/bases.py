"""What a run tells of its adapter: the base, the config, the held-out examples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lowrung import atomic, layout
from lowrung.after.named import Named
from lowrung.layout import RunFolder

if TYPE_CHECKING:
    from lowrung.adapters.difference import Row
    from lowrung.adapters.saved import Saved
    from lowrung.finetune.model import Base


def base_for(found: Named, saved: "Saved", path: str | None) -> "Base":
    """The base that was named; else that of the adapter's run, loaded as it was there; else the one the adapter names.

    Code that comes with a model is not run, whatever a run's config says: a folder may come from anybody.

    Raises:
        UsageError: when nothing names a base.
    """
    from lowrung.adapters.saved import base_of
    from lowrung.finetune.model import Base

    if path is not None or found.run is None:
        return base_of(saved, path)
    return Base(**{**config_of(found.run)["model"], "trust_remote_code": False})


def config_of(run: RunFolder) -> dict[str, Any]:
    """The config that a run was made from."""
    config: Any = OmegaConf.to_container(OmegaConf.load(run.config))
    return dict(config)


def held_out(run: RunFolder) -> Sequence["Row"]:
    """The held-out examples of a run as tokens; none where they are no longer beside it."""
    from lowrung.finetune.tokens import Prepared

    folder = layout.tokens_folder(run.path.parent, atomic.read_json(run.environment)["tokens"])
    if not folder.is_dir():
        return []
    return [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in Prepared.load(folder).eval]
