"""What commands need of a run: its adapter's base, its config, the held-out examples and their prompts."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowrung.commands.names import Named
from lowrung.errors import StoreError, UsageError, blaming
from lowrung.store import layout, records
from lowrung.store.layout import RunFolder

AGAIN = "Run it again, or name a copy of its adapter's folder alone."
"""What to do about a run's record that cannot be used."""

if TYPE_CHECKING:
    from lowrung.adapters.files import Saved
    from lowrung.config.schema import ModelConf
    from lowrung.finetune.data.template import Format
    from lowrung.finetune.models.head import Row


def base_for(found: Named, saved: "Saved", path: str | None, *, trust_remote_code: bool = False) -> "ModelConf":
    """The base at ``path``; else that of the adapter's run, loaded as it was there; else the one the adapter names.

    A run's config cannot allow the base's own code to run, only ``trust_remote_code`` here can: a run's folder may come
    from anybody.

    Raises:
        UsageError: when nothing names a base.
    """
    from lowrung.adapters.files import base_of
    from lowrung.config.schema import ModelConf

    if path is not None or found.run is None:
        return base_of(saved, path, trust_remote_code=trust_remote_code)
    with blaming(f"The config of the run, {found.run.config},", AGAIN):
        return ModelConf(**{**config_of(found.run)["model"], "trust_remote_code": trust_remote_code})


def located(base: "ModelConf") -> "ModelConf":
    """The base with its folder as its path, so that two names of one base are equal.

    Raises:
        UsageError: when it cannot be found or loaded.
    """
    from lowrung.adapters.compatibility import base_problems
    from lowrung.finetune.models import pretrained

    if problems := base_problems(base):
        raise UsageError(problems)
    return dataclasses.replace(base, path=str(pretrained.folder_of(base)), revision=None)


def config_of(run: RunFolder) -> dict[str, Any]:
    """A run's config as plain values.

    Raises:
        InputError: when the file cannot be read.
        StoreError: when it is no run's config.
    """
    from omegaconf import OmegaConf

    with blaming(f"The config of the run, {run.config},", AGAIN):
        config: Any = OmegaConf.to_container(OmegaConf.load(run.config))
    groups = ("model", "data", "lora", "train")
    if not isinstance(config, dict) or not all(isinstance(config.get(group), dict) for group in groups):
        raise StoreError(f"{run.config} must hold a run's config, with {', '.join(groups)}, but does not. {AGAIN}")
    return dict(config)


def format_of(run: RunFolder | None) -> "Format":
    """How prompts are formatted: as in the run; without one, by the chat template where there is one."""
    from lowrung.finetune.data.template import Format

    return Format.of(config_of(run)["data"]) if run else Format()


def held_out_prompts(run: RunFolder, count: int) -> list[str]:
    """The first prompts of a run's held-out examples; fewer where some are text alone.

    The data is read again: tokens do not tell the prompt from what a chat template puts around it.

    Raises:
        UsageError: when it cannot be read any more.
    """
    from lowrung.config import schema, structured
    from lowrung.finetune.data import corpus

    with blaming(f"The data of the run in {run.path}"):
        data = structured.typed(schema.DataConf, config_of(run)["data"])
        prompts = (
            next((m["content"] for m in example.messages if m["role"] == "user" and m["content"].strip()), None)
            for example in corpus.load(data).eval
        )
        return list(itertools.islice(filter(None, prompts), count))


def held_out(run: RunFolder) -> Sequence["Row"]:
    """The held-out examples of a run as tokens; none where they were deleted."""
    from lowrung.finetune.data.prepared import Prepared

    with blaming(f"The record of the run's environment, {run.environment},", AGAIN):
        folder = layout.tokens_folder(run.path.parent, records.read(run.environment)["tokens"])
    if not folder.is_dir():
        return []
    with blaming(f"The examples of the run as tokens, in {folder},", f"Delete that folder. {AGAIN}"):
        return [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in Prepared.load(folder).eval]
