"""What a study was asked to do: the sweep's config, as its coordinator left it, and what the study itself notes."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lowrung.report.verdict import PREFER
from lowrung.search.constraints import Constraint, parse, problems
from lowrung.search.study import PLANNED, TAKEN
from lowrung.store.layout import StudyFolder
from lowrung.studies.doubts import Doubts
from lowrung.studies.yaml_values import LOADER

OBJECTIVE = {"eval/loss": "minimize"}
"""What a sweep optimises unless it says otherwise."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a study was asked to do.

    Attributes:
        name: the study's.
        sweeper: the fields of ``hydra.sweeper``; none where they cannot be read.
        purpose: what the study was made for; see `lowrung.sweeps.identity`. None where there is no database.
        planned: trials, and runs of each, that were asked for, as its coordinator knew them.
        taken: the trials that stages took over and left out, by stage; see `lowrung.search.study.TAKEN`.
    """

    name: str
    sweeper: Mapping[str, Any]
    purpose: Mapping[str, Any]
    planned: Mapping[str, int] = dataclasses.field(default_factory=dict)
    taken: Mapping[str, Mapping[str, Sequence[int]]] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: StudyFolder, doubts: Doubts) -> "Asked":
        """Reads the sweep's config; what is missing is as by default."""
        name = folder.path.name
        try:
            config = yaml.load(folder.config.read_bytes(), LOADER)  # noqa: S506  (a safe loader)
            sweeper = config["hydra"]["sweeper"]
            return cls(str(config.get("study") or name), sweeper if isinstance(sweeper, dict) else {}, {})
        except FileNotFoundError:
            doubts.add(f"{folder.config.name} is gone: objectives and settings are those of the study's database")
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            doubts.add(f"{folder.config.name} cannot be read: objectives and settings are those of the database")
        return cls(name, {}, {})

    def with_facts(self, facts: Mapping[str, Any]) -> "Asked":
        """The same with what the study notes of itself."""
        purpose, planned, taken = (facts.get(name) or {} for name in ("purpose", PLANNED, TAKEN))
        return dataclasses.replace(self, purpose=purpose, planned=planned, taken=taken)

    def stages_of(self, trial: int, first: str) -> str:
        """The names of the stages that a trial counts for, the one that it was run for first."""
        return ", ".join([first, *(name for name, taken in self.taken.items() if trial in taken["shared"])])

    @property
    def left_out(self) -> dict[int, str]:
        """The trials that the last start left out, with their stages."""
        return {number: name for name, taken in self.taken.items() for number in taken["left_out"]}

    @property
    def objectives(self) -> dict[str, str]:
        """Metrics with ``minimize`` or ``maximize``; the first one ranks."""
        found = self.purpose.get("objectives") or self.sweeper.get("objectives")
        known = found.items() if isinstance(found, dict) else ()
        chosen = {str(name): str(way) for name, way in known if way in ("minimize", "maximize")}
        return chosen or dict(OBJECTIVE)

    @property
    def constraints(self) -> list[Constraint]:
        """Bounds on metrics."""
        found = self.purpose.get("constraints") or self.sweeper.get("constraints") or {}
        return [] if problems(found) else parse(found)

    @property
    def over_seeds(self) -> str:
        """What a trial's value is over its seeds."""
        return str(self.sweeper.get("over_seeds") or "mean")

    @property
    def prefer(self) -> Sequence[str]:
        """What decides between trials that tie."""
        found = self.sweeper.get("prefer")
        return [str(name) for name in found] if isinstance(found, list) and found else PREFER

    @property
    def difference(self) -> float | None:
        """The smallest difference that matters."""
        found = self.sweeper.get("difference")
        return float(found) if isinstance(found, int | float) else None

    @property
    def stages(self) -> list[str]:
        """The stages' names, in order."""
        found = self.sweeper.get("stages")
        return [str(one["name"]) for one in found if "name" in one] if isinstance(found, list) else []

    @property
    def seeds(self) -> int:
        """The runs that a trial was to have."""
        listed = str((self.purpose.get("seeds") or {}).get("seed", ""))
        return self.planned.get("seeds") or len(listed.split(",")) or 1

    @property
    def total(self) -> int | None:
        """The trials that were asked for; None where that is not known."""
        if "trials" in self.planned:
            return int(self.planned["trials"])
        if {"stages", "spaces"} & self.purpose.keys() or not self.purpose:
            return None
        axes = [str(text) for text in (self.purpose.get("axes") or {}).values()]
        n_trials = self.sweeper.get("n_trials")
        if any("interval(" in text for text in axes):
            return n_trials if isinstance(n_trials, int) else None
        points = math.prod(len(text.split(",")) for text in axes)
        return min(n_trials, points) if isinstance(n_trials, int) else points

    def storage(self, folder: StudyFolder) -> str | None:
        """The address of the study's database; None where that is a file which is not there."""
        from lowrung.store import addresses

        if chosen := self.sweeper.get("storage"):
            address = addresses.absolute(str(chosen), Path.cwd())
            file = addresses.sqlite_path(address)
            return address if file is None or file.is_file() else None
        return f"sqlite:///{folder.database.absolute()}" if folder.database.is_file() else None
