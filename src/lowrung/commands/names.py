"""Finds what a command's argument names: an adapter or a model, by its folder, run, trial or MLflow's id."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from lowrung.commands.arguments import ADAPTER
from lowrung.errors import UsageError, blaming, did_you_mean, some
from lowrung.store.layout import JobFolder, RunFolder, StudyFolder
from lowrung.studies import finding
from lowrung.studies.folders import Folders
from lowrung.track.base import URI as STORE
from lowrung.track.base import TrackError, store_uri

T = TypeVar("T")

RUN_ID = re.compile("[0-9a-f]{32}")
"""MLflow's ids of runs."""


@dataclasses.dataclass(frozen=True)
class Named:
    """An adapter or a model that was named.

    Attributes:
        name: as it was typed.
        folder: the adapter's, or a whole model's.
        run: the run that it belongs to, if any.
    """

    name: str
    folder: Path
    run: RunFolder | None

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter rather than a whole model."""
        return (self.folder / "adapter_config.json").is_file()


def find_adapters(names: Sequence[str], here: Path) -> list[Named]:
    """The adapters of these names.

    Raises:
        UsageError: with all names that are none.
    """
    return _all(names, lambda name: _adapter(name, here))


def find_adapters_or_models(names: Sequence[str], here: Path) -> list[Named]:
    """The adapters, or the models trained whole or merged, of these names.

    Raises:
        UsageError: with all names that are neither.
    """
    return _all(names, lambda name: _adapter_or_model(name, here))


def find_runs(names: Sequence[str], here: Path) -> list[RunFolder]:
    """The runs of these names.

    Raises:
        UsageError: with all names that are none.
    """
    return _all(names, lambda name: _run(name, here))


def store_of_ids(here: Path) -> str:
    """The address of the store in which MLflow's ids are looked up."""
    return store_uri(None, here)


def _all(names: Iterable[str], find: Callable[[str], T]) -> list[T]:
    found: list[T] = []
    problems: list[str] = []
    for name in names:
        try:
            with blaming(name):
                found.append(find(name))
        except UsageError as error:
            problems += error.problems
    if problems:
        raise UsageError(problems)
    return found


def _adapter(name: str, here: Path) -> Named:
    found = _adapter_or_model(name, here)
    if not found.is_adapter:
        raise UsageError(f"{name} must be {ADAPTER}, but {found.folder} is a whole model: it holds no adapter.")
    return found


def _adapter_or_model(name: str, here: Path) -> Named:
    folder = _folder_of(name, here)
    if _is_either(folder):
        run = RunFolder(folder.parent)
        return Named(name, folder, run if run.config.is_file() else None)
    run = _run_at(name, folder)
    for inner in (run.adapter, run.model):
        if _is_either(inner):
            return Named(name, inner, run)
    raise UsageError(
        f"{name} must be a run that was trained to its end, but {run.path} holds no adapter. Run it again."
    )


def _run(name: str, here: Path) -> RunFolder:
    folder = _folder_of(name, here)
    return RunFolder(folder.parent) if _is_either(folder) else _run_at(name, folder)


def _is_either(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("adapter_config.json", "config.json"))


def _folder_of(name: str, here: Path) -> Path:
    """The folder that a name means, first as a path, then as a run, then as a trial, then as MLflow's id."""
    for folder in (here / Path(name).expanduser(), here / "runs" / name, *_jobs(name, here), here / "multirun" / name):
        if finding.is_folder(folder):
            return folder.resolve()
    if RUN_ID.fullmatch(name):
        return _tracked_folder(name, store_of_ids(here))
    _refuse_a_trial_without_a_run(name, here)
    studies = sorted(finding.started(here), key=lambda study: study.path.name)
    known = [f"{study.path.name}/{job.name}" for study in studies for job in Folders.of(study).jobs]
    known += sorted(str(run.parent.relative_to(here)) for run in here.glob("runs/*/config.yaml"))
    raise UsageError(f"{name} must be {ADAPTER}, but there is none of that name in {here}.{did_you_mean(name, known)}")


def _jobs(name: str, here: Path) -> Iterator[Path]:
    """The folder of a trial's job: ``hydra.sweep.subdir`` may have named it by something else than its number."""
    study, _, trial = name.strip("/").partition("/")
    if trial and finding.is_study(found := StudyFolder(here / "multirun" / study)):
        yield from (found.path / job.path for job in Folders.of(found).jobs if job.name == trial)


def _refuse_a_trial_without_a_run(name: str, here: Path) -> None:
    """Says why a trial of a leaderboard has no run, such as one that the plan left out."""
    study, _, trial = name.strip("/").partition("/")
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # an odd one says nothing
        rows = json.loads(StudyFolder(here / "multirun" / study).leaderboard.read_bytes())
        causes = {str(row["trial"]): f"{row['status']}: {row.get('cause')}" for row in rows if not row.get("runs")}
        if trial in causes:
            raise UsageError(f"{name} must be a trial that was run, but it was {causes[trial]}. Name another one.")


def _tracked_folder(name: str, uri: str) -> Path:
    """The folder with the results of a run that has this id in MLflow."""
    from lowrung.track import lookup

    try:
        with blaming(f"The tracker, {uri},"):
            record = lookup.by_id(uri, name)
    except TrackError as error:
        raise UsageError(
            f"{name} looks like a run of MLflow, but {uri} does not answer ({error}). Set {STORE} to its store's"
            " address."
        ) from error
    if record is None:
        raise UsageError(f"{name} must be a run in {uri}, but there is none. Set {STORE} to its store's address.")
    if record.results is None:
        kind = record.tags.get("lowrung.kind")
        hint = "a whole sweep. Name one of its trials" if kind == "sweep" else "one without results. Run it to its end"
        raise UsageError(f"{name} must be a run that has left results, but is {hint}.")
    if not record.results.is_dir():
        raise UsageError(
            f"{name} must be a run whose results are on this machine, but {record.results} is gone. Run it again, or"
            " name a copy of its adapter's folder."
        )
    return record.results.resolve()


def _run_at(name: str, folder: Path) -> RunFolder:
    """The run whose folder this is, or the one of this trial's folder."""
    job = JobFolder(folder)
    run = RunFolder(job.run.resolve() if job.run.exists() else folder)
    if run.config.is_file():
        return run
    seeds = sorted(path.parent.name for path in folder.glob("seed_*/run"))
    if seeds:
        listed = ", ".join(f"{name}/{seed}" for seed in seeds)
        raise UsageError(f"{name} was trained with several seeds. Name one of its runs: {listed}.")
    if job.run.is_symlink():
        raise UsageError(f"{name} was a run in {folder / job.run.readlink()}, but that is gone. Run it again.")
    if finding.is_study(study := StudyFolder(folder)):
        trials = list(dict.fromkeys(job.name.partition("/seed_")[0] for job in Folders.of(study).jobs))
        which = f"Name one of its trials: {some([f'{name}/{trial}' for trial in trials])}" if trials else "It has none"
        raise UsageError(f"{name} is a whole study. {which}.")
    inner = sorted(file.parent.name for file in folder.glob("*/adapter_config.json"))
    hint = f" It holds adapters. Name one: {', '.join(f'{name}/{one}' for one in inner)}." if inner else ""
    raise UsageError(f"{name} must be {ADAPTER}, but {folder} is none of them.{hint}")
