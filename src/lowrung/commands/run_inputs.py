"""What a run tells of its adapter: the base, the config, the held-out examples and their prompts."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowrung.commands.names import Named
from lowrung.store import layout, records
from lowrung.store.layout import RunFolder

if TYPE_CHECKING:
    from lowrung.adapters.files import Saved
    from lowrung.finetune.models.pretrained import Base
    from lowrung.finetune.models.score import Row


def base_for(found: Named, saved: "Saved", path: str | None, *, trust_remote_code: bool = False) -> "Base":
    """The base that was named; else that of the adapter's run, loaded as it was there; else the one the adapter names.

    Code that comes with a model is run only where it is asked for here, whatever a run's config says: a folder may come
    from anybody.

    Raises:
        UsageError: when nothing names a base.
    """
    from lowrung.adapters.files import base_of
    from lowrung.finetune.models.pretrained import Base

    if path is not None or found.run is None:
        return base_of(saved, path, trust_remote_code=trust_remote_code)
    return Base(**{**config_of(found.run)["model"], "trust_remote_code": trust_remote_code})


def config_of(run: RunFolder) -> dict[str, Any]:
    """The config that a run was made from."""
    from omegaconf import OmegaConf

    config: Any = OmegaConf.to_container(OmegaConf.load(run.config))
    return dict(config)


def held_out_prompts(run: RunFolder, count: int) -> list[str]:
    """What a user asks first in the first held-out examples of a run; fewer where the data is text alone.

    The data is read anew, since tokens do not tell what the template of a chat put around a question.

    Raises:
        UsageError: when it cannot be read any more.
    """
    from lowrung.config import schema
    from lowrung.finetune.data import corpus

    data = schema.typed(schema.DataConf, config_of(run)["data"])
    asked = (
        next((text for role, text in example.messages if role == "user" and text.strip()), None)
        for example in corpus.load(data).eval
    )
    return list(itertools.islice(filter(None, asked), count))


def held_out(run: RunFolder) -> Sequence["Row"]:
    """The held-out examples of a run as tokens; none where they are no longer beside it."""
    from lowrung.finetune.data.prepared import Prepared

    folder = layout.tokens_folder(run.path.parent, records.read(run.environment)["tokens"])
    if not folder.is_dir():
        return []
    return [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in Prepared.load(folder).eval]
