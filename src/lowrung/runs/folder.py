"""A run's folder before the run: the result that it may hold already, and what is cleared for a new start."""

import collections
import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.config import signature, source
from lowrung.config.prior import FULL
from lowrung.config.schema import Config
from lowrung.config.written import yaml_of
from lowrung.errors import StoreError
from lowrung.finetune.found import Preflight
from lowrung.store import atomic, layout, mailbox, parts, records, results
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status


def kept_outcome(folder: RunFolder, also: str | None = None) -> Outcome | None:
    """The result of a run that need not be trained again, or None; one that is not what the run left does not count.

    Args:
        folder: the run's.
        also: a further status that is kept. A pruned run is a result only in the study that pruned it.
    """
    outcome = Outcome.read(folder.outcome)
    statuses = {Status.COMPLETE, Status.DIVERGED} | ({Status.PRUNED} if also == Status.PRUNED else set())
    if outcome is None or outcome.status not in statuses or results.doubt(folder, outcome):
        return None
    return outcome


def notes(config: Config, preflights: Sequence[Preflight]) -> Sequence[str]:
    """What to say before the first run, each once: of models, data and the store."""
    store = Path(config.store).absolute()
    found = [
        [_prior(config, preflight), *preflight.notes, _results_of_other_code(store, preflight)]
        for preflight in preflights
    ]
    return list(dict.fromkeys(note for each in found for note in each if note))


def _prior(config: Config, preflight: Preflight) -> str | None:
    """The learning rate that follows from the model, where none was set."""
    if config.train.learning_rate is not None:
        return None
    rate = preflight.learning_rate
    return f"train.learning_rate is {rate:g}, the prior for a model of this width ({rate * FULL:g} with lora=full)"


def _results_of_other_code(store: Path, preflight: Preflight) -> str | None:
    """A note on results for this model and data that other code made, and that no run is answered from; else None.

    Their signatures are others: a newer lowrung or library may give other numbers.
    """
    made_by = collections.Counter(
        made
        for environment in _environments(store)
        if environment.get("model_fingerprint") == preflight.model_fingerprint
        and environment.get("data_fingerprint") == preflight.data_fingerprint
        and (made := _other_code(environment))
    )
    if not made_by:
        return None
    number = made_by.total()
    results = f"{number} results" if number > 1 else "1 result"
    return f"{store} has {results} for this model and data from {', '.join(made_by)}: kept, but not reused"


def _environments(store: Path) -> Iterator[Mapping[str, Any]]:
    """What the finished runs of a store were made with; a record that is damaged is for the command that needs it."""
    for file in sorted(store.glob(str(layout.run_folder(Path(), "*").environment))):
        if RunFolder(file.parent).outcome.is_file():
            with contextlib.suppress(StoreError):
                yield records.read(file)


def _other_code(environment: Mapping[str, Any]) -> str | None:
    """What made a result, where that is not what would make it now: a version of lowrung, or of libraries."""
    if environment.get("source") != source.digest():
        return f"lowrung {environment.get('lowrung', 'of an unknown version')}"
    then, now = environment.get("versions", {}), signature.versions(signature.PACKAGES)
    return " and ".join(f"{name} {then.get(name)}" for name in now if then.get(name) != now[name]) or None


def prepare_folder(
    folder: RunFolder, config: Config, preflight: Preflight, threads: int, say: Callable[[str], None] = print
) -> str:
    """Deletes what an earlier attempt left, except its checkpoints, and writes the run's config and environment.

    What is not the run's own is moved aside, and ``say`` prints a line that says so.

    Returns:
        the claim of the run's job; see `lowrung.store.results.claim`.

    Raises:
        StoreError: when another process works in the folder; then nothing has changed.
    """
    environment = signature.environment(
        model_fingerprint=preflight.model_fingerprint,
        data_fingerprint=preflight.data_fingerprint,
        tokens=preflight.data_folder.name,
        threads=threads,
    )
    tokens = preflight.data_folder
    read = {name: digest for name, digest in preflight.files.items() if not Path(name).is_relative_to(tokens)}
    with atomic.lock(folder.lock):
        if moved := results.put_strangers_aside(folder):
            say(f"warning: {moved}")
        parts.close(folder)
        mailbox.clear(folder.path)
        atomic.remove_leftovers(folder.path)
        fresh = () if folder.checkpoints.exists() else (folder.system,)
        for stale in (folder.outcome, folder.held_out, folder.untracked, *fresh):
            stale.unlink(missing_ok=True)
        for stale in (folder.adapter, folder.model, folder.merged, folder.scratch):
            shutil.rmtree(stale, ignore_errors=True)
        atomic.write_text(folder.config, yaml_of(config))
        atomic.write_json(folder.environment, {**environment, "files": read, "signature": folder.path.name})
        return results.claim(folder)
