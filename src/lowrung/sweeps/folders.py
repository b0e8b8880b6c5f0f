"""The folders of a sweep's jobs: each trial has its own, below the study's, where no other study's files lie."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from lowrung.engine import hydra_job
from lowrung.errors import UsageError
from lowrung.search.space import Space, Value
from lowrung.store.layout import JobFolder, StudyFolder
from lowrung.sweeps.composer import Composer, GridPoint

_REMEDY = "Leave it out, or put ${hydra.job.num} into it, the trial's number."

_LONGEST = 255
"""Bytes in the name of a file or folder, in nearly all file systems."""

_MARK = "multirun.yaml"
"""What a study's coordinator writes first: the sweep's config, with the study's name."""


@dataclasses.dataclass(frozen=True)
class Jobs:
    """Where the jobs of a sweep's trials will run.

    Attributes:
        composer: composes them.
        space: the search space, with the study's name among what is fixed.
        study: the study's folder.
    """

    composer: Composer
    space: Space
    study: StudyFolder

    def problems(self, points: Sequence[GridPoint]) -> list[str]:
        """What is wrong with the folders, as far as it is known before the first trial.

        Args:
            points: the grid's, of which each will be run.
        """
        if not self._are_named:
            points = points[:1]
        folders = [self._of(point.params, number) for number, point in enumerate(points)]
        found = [problem for folder in folders for problem in place_problems(folder, self.study)]
        if self.space.intervals:
            found += self._shared(points[0].params)
        else:
            found += self._equal(points, folders)
        return list(dict.fromkeys(found))

    @property
    def _are_named(self) -> bool:
        """Whether jobs have other folders than their numbers: then each is composed to know its folder (4 ms)."""
        written = OmegaConf.to_container(self.composer.master.hydra.sweep, resolve=False)
        assert isinstance(written, dict)
        return bool(written["subdir"] != "${hydra.job.num}")

    def _of(self, params: Mapping[str, Value], number: int) -> Path:
        return hydra_job.output_folder(self.composer.job(self.space.overrides(params), number, subfolder=""))

    def _equal(self, points: Sequence[GridPoint], folders: Sequence[Path]) -> Iterator[str]:
        """Points of a grid that share a folder, or whose folder lies in another's."""
        first = {folder: point for point, folder in reversed(list(zip(points, folders, strict=True)))}
        for point, folder in zip(points, folders, strict=True):
            if first[folder] is not point:
                yield self._one_folder(folder, first[folder].params, point.params)
            for above in folder.parents:
                if above in first:
                    yield self._one_folder(above, first[above].params, point.params)

    def _shared(self, point: Mapping[str, Value]) -> Iterator[str]:
        """The folder that trials of a search share, where it changes neither with their number nor with a value."""
        if self._of(point, 0) != self._of(point, 1):
            return
        ends = [{**point, axis.key: end} for axis in self.space.intervals for end in (axis.low, axis.high)]
        values = [{**point, axis.key: value} for axis in self.space.choices for value in axis.distinct]
        pairs = [*zip(ends[::2], ends[1::2], strict=True), *((point, other) for other in values if other != point)]
        for one, other in pairs:
            folder = self._of(one, 0)
            if folder == self._of(other, 0):
                yield self._one_folder(folder, one, other)

    def _one_folder(self, folder: Path, one: Mapping[str, Value], other: Mapping[str, Value]) -> str:
        texts = [self.space.texts(params) for params in (one, other)]
        names = " and ".join(", ".join(f"{key}={text}" for key, text in point.items()) for point in texts)
        return f"hydra.sweep.subdir must give each trial a folder of its own, but {names} share {folder}. {_REMEDY}"


@dataclasses.dataclass
class Taken:
    """The folders that the runs of a study have: a backstop for points that are drawn, and so not known beforehand.

    Attributes:
        study: the study's folder.
        of: what was run in each folder.
    """

    study: StudyFolder
    of: dict[Path, tuple[Mapping[str, Value], int]] = dataclasses.field(default_factory=dict)

    def take(self, folder: Path, params: Mapping[str, Value], seed: int) -> None:
        """Gives a folder to a trial's run. Trials of equal values may share one: their runs are the same.

        Raises:
            UsageError: when a trial of other values has it, or it is no folder for a job.
        """
        problems = list(place_problems(folder, self.study))
        if self.of.setdefault(folder, (params, seed)) != (params, seed):
            problems.append(
                f"hydra.sweep.subdir must give each trial a folder of its own, but two trials have {folder}. {_REMEDY}"
                " Results that are there stay in the store."
            )
        if problems:
            raise UsageError(problems)


def study_problems(study: StudyFolder, name: str) -> Iterator[str]:
    """What keeps a study of this name out of a folder: another study, or a job, that has it."""
    there = _study_in(study.path)
    if there not in (None, name):
        yield (
            f"hydra.sweep.dir must be a folder of this study alone, but {study.path} is that of study {there!r}, and"
            f" this is {name!r}. Name another folder, or leave hydra.sweep.dir out; to go on with {there!r}, give the"
            f" command that started it, with study={there!r}."
        )
    for folder in (study.path, *study.path.parents):
        if JobFolder(folder).run.is_symlink():
            yield f"hydra.sweep.dir must not be in a job's folder, but {folder} is one. Name another folder."


def place_problems(folder: Path, study: StudyFolder) -> Iterator[str]:
    """What is wrong with a job's folder, whatever the other jobs have."""
    root = Path(os.path.abspath(study.path))  # noqa: PTH100  (links are not followed, as Hydra follows none)
    where = f"{folder}. {_REMEDY}"
    if root not in folder.parents:
        yield f"hydra.sweep.subdir must give each trial a folder below the study's, {root}, but gives {where}"
        return
    reserved = {getattr(study, name).name for name, value in vars(StudyFolder).items() if isinstance(value, property)}
    inner = folder.relative_to(root)
    if inner.parts[0] in {*reserved, _MARK}:
        yield f"hydra.sweep.subdir must leave the study's own files alone, but gives {where}"
    if any(len(os.fsencode(part)) > _LONGEST for part in inner.parts):
        yield f"hydra.sweep.subdir must give names of at most {_LONGEST} bytes, but gives {where}"
        return
    for above in (folder, *folder.parents):
        if above == root:
            return
        if _study_in(above) is not None:
            yield f"hydra.sweep.subdir must not lead into another study's folder, but gives {where}"


def _study_in(folder: Path) -> str | None:
    """The name of the study whose folder this is; None where it is no study's."""
    mark = folder / _MARK
    if not mark.is_file():
        return None
    line = re.search(r"^study:.*(?:\n(?:[ \t].*)?)*", mark.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    try:
        name = yaml.safe_load(line.group())["study"] if line else None
    except yaml.YAMLError:
        return None
    return None if name is None else str(name)
