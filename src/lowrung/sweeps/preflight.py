"""The preflight of a sweep: each pair of model and data that is not known is checked in a process of the engine's."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lowrung import library_warnings
from lowrung.config import schema
from lowrung.config.schema import Config
from lowrung.engine.base import Ended, Engine, Exit, Job, Reported
from lowrung.errors import UsageError
from lowrung.finetune.found import Preflight, Subject
from lowrung.library_warnings import Heard
from lowrung.runs import inputs, known
from lowrung.store import disk
from lowrung.store.layout import RunFolder, StudyFolder

SIZES = "sizes"
"""The job that counts sizes which a preflight has not."""


def key(config: Config) -> str:
    """Equal for configs that share their model and their data, and so their preflight."""
    return schema.digest([config.model, config.data, Path(config.store).absolute()])


def check_all(
    engine: Engine, configs: Sequence[Config], folder: StudyFolder, *, weights: bool = True
) -> dict[str, Preflight]:
    """Checks the models and the data of these configs. What it writes to the study's folder goes again.

    Args:
        engine: runs the checks, one after the other; where all is known, it is not used.
        configs: the grid's.
        folder: the study's, where a check writes its log.
        weights: whether the models are loaded and read the data. A plan needs none of it: see
            `lowrung.finetune.found.Subject`.

    Returns:
        what was found, by `key`.

    Raises:
        UsageError: with all problems that were found, or when a check did not come to its end; then its log stays.
    """
    alike: dict[str, list[Config]] = {}
    for config in configs:
        alike.setdefault(key(config), []).append(config)
    subjects = {name: inputs.subject(group, weights=weights) for name, group in alike.items()}
    before = {name: known.preflight(each) for name, each in subjects.items()}
    if None in before.values():
        engine.preload()
        print("loading libraries, checking model and data (the first time, the model is built: half a minute)")
    # Without the folder itself: a preflight that was killed may have left it, with nothing else in it.
    existing, own = disk.nearest(folder.path.parent), RunFolder(folder.preflight)
    warned: list[Heard] = []
    found = {name: each or _check(engine, name, subjects[name], own, warned) for name, each in before.items()}
    for one in {one.kind: one for one in warned}.values():
        print(f"warning of {one.library}, from the preflight: {one.text}")
    shutil.rmtree(own.path, ignore_errors=True)
    disk.remove_empty(folder.path, existing)
    if problems := dict.fromkeys(problem for one in found.values() for problem in one.problems):
        raise UsageError(list(problems))
    return found


def asked(engine: Engine, folder: StudyFolder, task: Callable[[], Any]) -> Any:
    """What a task returns in a process of the engine's; None where it fails. Nothing stays in the study's folder."""
    existing, own = disk.nearest(folder.path.parent), RunFolder(folder.preflight)
    ended = _run(engine, Job(SIZES, own.path, task, is_limited=False))
    shutil.rmtree(own.path, ignore_errors=True)
    disk.remove_empty(folder.path, existing)
    return ended.value if ended.exit is Exit.RETURNED else None


def _check(engine: Engine, name: str, subject: Subject, folder: RunFolder, warned: list[Heard]) -> Preflight:
    task = _Task(subject, known.name(subject))
    job = Job(name, folder.path, task, is_limited=False)
    ended = _run(engine, job)
    if ended.exit in (Exit.DIED, Exit.EVICTED):  # a kill, say, or memory that others used
        ended = _run(engine, job)
    if ended.exit is not Exit.RETURNED:
        raise UsageError(f"The model and the data must load, but they do not: {ended.cause}. Read {folder.log}.")
    found: Preflight
    found, heard = ended.value
    warned += heard
    return found


def _run(engine: Engine, job: Job) -> Ended:
    engine.submit(job)
    return next(event for event in _events(engine) if isinstance(event, Ended))


def _events(engine: Engine) -> Iterator[Reported | Ended]:
    while events := engine.wait():
        yield from events


@dataclasses.dataclass(frozen=True)
class _Task:
    """`lowrung.runs.known.find`, for a process that is to import what it needs first, and what libraries warned of."""

    subject: Subject
    name: str | None

    def __call__(self) -> tuple[Preflight, list[Heard]]:
        warned: list[Heard] = []
        with library_warnings.heard(warned.append):
            return known.find(self.subject, self.name), warned
