"""Known preflights: what was found once counts as long as all that it was found from is what it was.

A record in the store has the SHA-256 of every file that was read. Its name is a hash of all else that determines what
is found. What cannot be known without asking anew is not kept: a branch of the hub may have moved.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowrung.config import schema
from lowrung.costs.sizes import BaseSizes, RowSizes, TrainedSizes
from lowrung.finetune.data.split import Split
from lowrung.finetune.found import Preflight, Subject
from lowrung.finetune.training import user_metrics
from lowrung.runs import surroundings
from lowrung.runs.sources import Sources
from lowrung.store import disk, layout, sealed


def of(subject: Subject) -> Preflight:
    """What is known of a model and its data, or is found now, in this process.

    One without weights is answered by what one with them has found, but never kept, and so never the other way round.
    """
    return preflight(subject) or find(subject, name(subject))


def preflight(subject: Subject) -> Preflight | None:
    """What was found before, or why nothing can be written; None where it is to be found first. It imports no torch."""
    if problems := _unwritable(subject):
        return Preflight(tuple(problems))
    key = name(subject)
    found = key and _read(layout.preflight_record(subject.store, key), subject)
    return found.of(_settings(subject)) if found else None


def find(subject: Subject, key: str | None) -> Preflight:
    """Checks model and data in this process, and keeps what was found.

    Args:
        subject: what is checked.
        key: its `name`.
    """
    from lowrung.finetune.preflight import check

    if problems := _unwritable(subject):
        return Preflight(tuple(problems))
    if not subject.weights:
        return check(subject)
    store = subject.store
    sources = Sources.of(subject.base, subject.data) if key else None
    before = sources and sources.digests(store)
    found = check(subject)
    if key and sources and before and found.is_read:
        sources = sources.with_folder(found.data_folder)
        digests = sources.digests(store)
        if digests and before.items() <= digests.items():  # else a file has changed meanwhile
            found = dataclasses.replace(found, files=digests)
            _keep(layout.preflight_record(store, key), subject, found, sources)
    return found


def name(subject: Subject) -> str | None:
    """A hash of all that determines what a preflight finds, but for files, and settings of adapters and training.

    It is the same in all processes of a sweep. It is None where what is found cannot be kept.
    """
    base, data = subject.base, subject.data
    if not surroundings.stand_still(base, data):
        return None
    return schema.digest([base, data, subject.store, subject.new_tokens, surroundings.of(base)])


def _settings(subject: Subject) -> list[str]:
    return [schema.digest(settings) for settings in (*subject.adapters, *subject.trains)]


def _unwritable(subject: Subject) -> list[str]:
    """Why nothing can be written where it must be; a model that is in the cache already needs no writing there."""
    cache, path = layout.cache_folder(), subject.base.path
    is_needed = path.startswith("embedded:") and not (cache / "models").is_dir()
    return [
        *disk.unwritable("store", subject.store),
        *(disk.unwritable("LOWRUNG_CACHE, or ~/.cache,", cache) if is_needed else []),
    ]


def _read(record: Path, subject: Subject) -> Preflight | None:
    """What a record says, where it counts."""
    fields = sealed.read(record)
    if fields is None or fields["modules"] != user_metrics.modules(subject.data.metrics):
        return None
    if Sources(**fields["sources"]).digests(subject.store) != fields["found"]["files"]:
        return None
    found = fields["found"]
    values = {
        "problems": (),
        "notes": tuple(found["notes"]),
        "splits": tuple(Split(**split) for split in found["splits"]),
        "data_folder": Path(found["data_folder"]),
        "base": BaseSizes(**_tuples(found["base"])),
        "trained": {
            key: {int(rank): TrainedSizes(**_tuples(each)) for rank, each in ranks.items()}
            for key, ranks in found["trained"].items()
        },
        "rows": tuple(RowSizes(**_tuples(each)) for each in found["rows"]),
    }
    return Preflight(**{**found, **values})


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass from JSON, which knows lists alone."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _keep(record: Path, subject: Subject, found: Preflight, sources: Sources) -> None:
    """Writes a record. The settings that were checked of the same model and data before stay known."""
    before = _read(record, subject)
    if before and (before.model_fingerprint, before.data_folder) == (found.model_fingerprint, found.data_folder):
        found = found.beside(before)
    fields = {
        "found": {**dataclasses.asdict(found), "data_folder": str(found.data_folder)},
        "sources": dataclasses.asdict(sources),
        "modules": user_metrics.modules(subject.data.metrics),
    }
    sealed.keep(record, fields)
