"""Where the runs of a study are: its jobs' links lead to them, also after all of it was moved or copied."""

import dataclasses
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.store.layout import JobFolder, RunFolder, StudyFolder
from lowrung.studies import yaml_values

_LINK = JobFolder(Path()).run.name

_BY_NUMBER = "${hydra.job.num}"
"""``hydra.sweep.subdir`` unless it is set: then a job's folder is named by its trial's number, and by nothing else."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of a study: one run of a trial.

    Attributes:
        path: its folder, as a path in the study's.
        run: where its link leads.
        number: its trial's; None where ``hydra.sweep.subdir`` was set and Hydra's files of the job are gone.
        seed: the run's, of a trial with several; else None.
    """

    path: str
    run: Path
    number: int | None
    seed: int | None

    @property
    def name(self) -> str:
        """What commands know it by, after its study's name."""
        if self.number is None:
            return self.path
        return str(self.number) if self.seed is None else f"{self.number}/seed_{self.seed}"


@dataclasses.dataclass(frozen=True)
class Folders:
    """The jobs of a study, by trial and seed, and so its runs."""

    jobs: Sequence[Job]

    @classmethod
    def of(cls, study: StudyFolder) -> "Folders":
        """Follows the links of a study's jobs."""
        by_number = _are_by_number(study)
        jobs = [_job(study, link.parent, by_number) for link in links(study.path) if link.parent != study.path]
        return cls(sorted(jobs, key=lambda job: (job.number is None, job.number or 0, job.seed or 0, job.path)))

    def job(self, number: object, seed: object = None, signature: str = "") -> Job | None:
        """The job of a trial's run; None where there is none.

        Args:
            number: the trial's.
            seed: the run's; None is the trial's first.
            signature: the run's, by which a job is known too.
        """
        of_trial = self._by_trial.get(number, ())
        found = (job for job in of_trial if seed is None or job.seed in (None, seed))
        return next(found, None) or next((job for job in self.jobs if job.run.name == signature), None)

    def run(self, signature: str, recorded: str = "") -> RunFolder | None:
        """The folder of a run; None where it is gone.

        Args:
            signature: the run's.
            recorded: where it was when the study ended.
        """
        linked = self._by_signature.get(signature)
        candidates = ([] if linked is None else [linked]) + ([Path(recorded)] if recorded else [])
        return next((RunFolder(path) for path in candidates if path.is_dir()), None)

    def contradict(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a leaderboard came from another study: the study's own jobs lead to other runs than it names.

        Args:
            rows: the leaderboard's, of any version. What has no job of its own here says nothing.
        """
        runs = {(job.number, job.seed): job.run.name for job in self.jobs}
        return any(
            runs.get((row.get("trial"), seed), name) != name
            for row in rows
            for run in (row.get("runs") if isinstance(row.get("runs"), list) else None) or ()
            if isinstance(run, dict) and run.get("results")
            for name in [Path(str(run["results"])).name]
            for seed in (None, run.get("seed"))
        )

    @functools.cached_property
    def _by_trial(self) -> Mapping[object, Sequence[Job]]:
        found: dict[object, list[Job]] = {}
        for job in self.jobs:
            found.setdefault(job.number, []).append(job)
        return found

    @functools.cached_property
    def _by_signature(self) -> Mapping[str, Path]:
        return {job.run.name: job.run for job in self.jobs}


def links(folder: Path) -> Iterator[Path]:
    """The links of all jobs below a folder, which are followed nowhere on the way."""
    for inner, folders, files in os.walk(folder):
        if (_LINK in folders or _LINK in files) and (link := Path(inner) / _LINK).is_symlink():
            yield link


def _are_by_number(study: StudyFolder) -> bool:
    """Whether the folders of a study's jobs are named by their trials' numbers."""
    return yaml_values.value(study.config, "hydra", "sweep", "subdir") in (None, _BY_NUMBER)


def _job(study: StudyFolder, folder: Path, by_number: bool) -> Job:
    path = folder.relative_to(study.path).as_posix()
    trial, seed = match.groups() if (match := re.fullmatch(r"(.+)/seed_(\d+)", path)) else (path, None)
    number = int(trial) if by_number and trial.isdecimal() else None if by_number else _number(folder)
    return Job(path, Path(os.path.realpath(folder / _LINK)), number, None if seed is None else int(seed))


def _number(folder: Path) -> int | None:
    """The number of a job's trial, as Hydra noted it in the job's folder."""
    noted = yaml_values.value(folder / ".hydra" / "hydra.yaml", "hydra", "job", "num")
    return int(noted) if noted is not None and noted.isdecimal() else None
