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
from lowrung.search.axes import Value
from lowrung.search.space import Space
from lowrung.store.layout import JobFolder, StudyFolder
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.points import GridPoint

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
        study: the study's folder.
    """

    composer: Composer
    study: StudyFolder

    def problems(self, points: Sequence[GridPoint]) -> list[str]:
        """What is wrong with the folders, as far as it is known before the first trial.

        Args:
            points: of which each may be run; their spaces name the study.
        """
        if not self._are_named:
            points = points[:1]
        folders = [self._of(point.space, point.params, number) for number, point in enumerate(points)]
        found = [problem for folder in folders for problem in place_problems(folder, self.study)]
        exact = [(point, folder) for point, folder in zip(points, folders, strict=True) if not point.is_open]
        found += self._equal(exact)
        for point in {point.space: point for point in reversed(points) if point.is_open}.values():
            found += self._shared(point.space, point.params)
        return list(dict.fromkeys(found))

    @property
    def _are_named(self) -> bool:
        """Whether jobs have other folders than their numbers: then each is composed to know its folder (4 ms)."""
        written = OmegaConf.to_container(self.composer.master.hydra.sweep, resolve=False)
        assert isinstance(written, dict)
        return bool(written["subdir"] != "${hydra.job.num}")

    def _of(self, space: Space, params: Mapping[str, Value], number: int) -> Path:
        return hydra_job.output_folder(self.composer.job(space.overrides(params), number, subfolder=""))

    def _equal(self, points: Sequence[tuple[GridPoint, Path]]) -> Iterator[str]:
        """Points of a grid that share a folder, or whose folder lies in another's."""
        first = {folder: _texts(point.space, point.params) for point, folder in reversed(points)}
        for point, folder in points:
            texts = _texts(point.space, point.params)
            if first[folder] != texts:
                yield _one_folder(folder, first[folder], texts)
            for above in folder.parents:
                if above in first:
                    yield _one_folder(above, first[above], texts)

    def _shared(self, space: Space, point: Mapping[str, Value]) -> Iterator[str]:
        """The folder that trials of a search share, where it changes neither with their number nor with a value."""
        if self._of(space, point, 0) != self._of(space, point, 1):
            return
        ends = [{**point, axis.key: end} for axis in space.intervals for end in (axis.low, axis.high)]
        values = [{**point, axis.key: value} for axis in space.choices for value in axis.distinct]
        pairs = [*zip(ends[::2], ends[1::2], strict=True), *((point, other) for other in values if other != point)]
        for one, other in pairs:
            folder = self._of(space, one, 0)
            if folder == self._of(space, other, 0):
                yield _one_folder(folder, _texts(space, one), _texts(space, other))


def _texts(space: Space, params: Mapping[str, Value]) -> str:
    """A point in words."""
    return ", ".join(f"{key}={text}" for key, text in space.texts(params).items())


def _one_folder(folder: Path, one: str, other: str) -> str:
    return (
        f"hydra.sweep.subdir must give each trial a folder of its own, but {one} and {other} share {folder}. {_REMEDY}"
    )


@dataclasses.dataclass
class Taken:
    """The folders that the runs of a study have: a backstop for points that are drawn, and so not known beforehand.

    Attributes:
        study: the study's folder.
        of: what was run in each folder.
    """

    study: StudyFolder
    of: dict[str, tuple[Mapping[str, Value], int]] = dataclasses.field(default_factory=dict)

    def take(self, folder: Path, params: Mapping[str, Value], seed: int) -> None:
        """Gives a folder to a trial's run. Trials of equal values may share one: their runs are the same.

        Raises:
            UsageError: when a trial of other values has it, or it is no folder for a job.
        """
        problems = list(place_problems(folder, self.study))
        if self.of.setdefault(str(folder), (params, seed)) != (params, seed):
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
