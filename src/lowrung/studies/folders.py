"""Where the runs of a study are: its jobs' links lead to them, also after all of it was moved or copied."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from lowrung.store.layout import JobFolder, RunFolder, StudyFolder


@dataclasses.dataclass(frozen=True)
class Folders:
    """The runs' folders of a study.

    Attributes:
        links: where the jobs' links lead, by the name of the folder there: the run's signature.
        jobs: the same by the job's folder, as a path in the study's.
    """

    links: Mapping[str, Path]
    jobs: Mapping[str, Path]

    @classmethod
    def of(cls, study: StudyFolder) -> "Folders":
        """Follows the links of a study's jobs."""
        name = JobFolder(Path()).run.name
        jobs: dict[str, Path] = {}
        for folder, inner, files in os.walk(study.path):
            job = Path(folder)
            if name in (*inner, *files) and (job / name).is_symlink():
                jobs[job.relative_to(study.path).as_posix()] = Path(os.path.realpath(job / name))
                inner.clear()
            elif job != study.path and job.name.startswith("."):
                inner.clear()
        return cls({target.name: target for target in jobs.values()}, jobs)

    def run(self, signature: str, recorded: str = "") -> RunFolder | None:
        """The folder of a run; None where it is gone.

        Args:
            signature: the run's.
            recorded: where it was when the study ended.
        """
        linked = self.links.get(signature)
        candidates = ([] if linked is None else [linked]) + ([Path(recorded)] if recorded else [])
        return next((RunFolder(path) for path in candidates if path.is_dir()), None)
