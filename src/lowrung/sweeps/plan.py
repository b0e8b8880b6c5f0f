"""What a sweep is to do: its space, its grid, its settings, and what the preflight found."""

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, open_dict

from lowrung.config import schema
from lowrung.config.schema import Config
from lowrung.engine.base import Engine
from lowrung.errors import UsageError
from lowrung.runs.folder import notes
from lowrung.search.pruning import Schedule
from lowrung.search.space import Params, Space
from lowrung.store import disk
from lowrung.store.layout import StudyFolder
from lowrung.sweeps import preflight
from lowrung.sweeps.composer import Composer, GridPoint
from lowrung.sweeps.settings import Settings
from lowrung.track import recording

if TYPE_CHECKING:
    from lowrung.finetune.preflight import Preflight


def require_a_device_map(points: Sequence[GridPoint], gpus: int) -> None:
    """Refuses several GPUs for a model that lies on one: SFTTrainer would use the others for DataParallel, and raise.

    Raises:
        UsageError: when a point's model has no device map.
    """
    if gpus > 1 and any(point.config.model.device_map != "auto" for point in points):
        raise UsageError(
            f"hydra.launcher.gpus_per_trial={gpus} needs a model that is spread over them, but model.device_map is"
            " null. Add model.device_map=auto."
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep that was checked, and has everything that it needs to start.

    Attributes:
        study: the study's name.
        folder: the study's.
        space: the search space; its fixed overrides name the study.
        points: the grid.
        n_trials: trials in total.
        settings: the fields of ``hydra.sweeper``.
        config: of the first point, for what is the same in all.
        preflights: what was found of each model and data; see `Plan.preflight`.
    """

    study: str
    folder: StudyFolder
    space: Space
    points: Sequence[GridPoint]
    n_trials: int
    settings: Settings
    config: Config
    preflights: Mapping[str, "Preflight"]

    @classmethod
    def make(
        cls,
        composer: Composer,
        space: Space,
        points: Sequence[GridPoint],
        settings: Settings,
        engine: Engine,
    ) -> "Plan":
        """Names the study, and checks its models and data.

        Raises:
            UsageError: with every problem that the preflight found.
        """
        config, master, n_trials = points[0].config, composer.master, settings.n_trials
        name = config.study or _study_name(master, space, settings)
        with open_dict(master):
            master.study = name
            master.track = recording.settled(config.track)
        folder = StudyFolder(Path(master.hydra.sweep.dir).absolute())
        if unwritable := disk.unwritable("hydra.sweep.dir", folder.path):
            raise UsageError(unwritable)
        print("loading libraries, checking model and data (the first time, the model is built: half a minute)")
        preflights = preflight.check_all(engine, [*(point.config for point in points), *ends(composer, space)], folder)
        for note in notes(config, list(preflights.values())):
            print(f"note: {note}")
        total = n_trials if space.intervals and n_trials else min(n_trials or len(points), len(points))
        fixed = (text for text in space.fixed if not text.startswith("study="))
        space = dataclasses.replace(space, fixed=(*fixed, f"study={_quoted(name)}"))
        return cls(name, folder, space, points, total, settings, config, preflights)

    @property
    def seeds(self) -> Sequence[int]:
        """What every point is trained with."""
        return self.space.seeds or (self.config.seed,)

    def preflight(self, config: Config) -> "Preflight":
        """What was found for this config's model and data."""
        return self.preflights[preflight.key(config)]


def ends(composer: Composer, space: Space) -> list[Config]:
    """Configs at the high ends of the intervals; those of the grid's points stand at the low ends."""
    highs: Params = {axis.key: int(axis.high) if axis.integer else axis.high for axis in space.intervals}
    firsts = {axis.key: axis.values[0] for axis in space.choices}
    return [composer.config(space.overrides({**firsts, **highs}))] if highs else []


def schedules(points: Sequence[GridPoint]) -> list[Schedule]:
    """When the runs of these points are evaluated."""
    return [
        Schedule(train.eval_steps, train.max_steps or sys.maxsize, train.batch_size * train.gradient_accumulation_steps)
        for train in (point.config.train for point in points)
    ]


def _study_name(master: DictConfig, space: Space, settings: Settings) -> str:
    """The name of the preset or the task with a hash of the search; tracking and paths do not count."""
    choices = OmegaConf.to_container(master.hydra.runtime.choices)
    assert isinstance(choices, dict)
    task = str(choices.get("sweeps") or choices.get("data") or "sweep").replace("/", "_")
    fixed = sorted(text for text in space.fixed if not text.startswith(("track", "store=", "study=", "sweeps=")))
    axes = {axis.key: axis.distinct for axis in space.choices}
    searched = [dataclasses.asdict(axis) for axis in space.intervals]
    return f"{task}-{schema.digest([fixed, axes, searched, space.seeds, settings.goal])[:6]}"


def _quoted(name: str) -> str:
    """A study's name as an override's value; quoted where Hydra would read more than a word."""
    return name if re.fullmatch(r"[A-Za-z_][\w-]*", name) else QuotedString(name, Quote.single).with_quotes()
