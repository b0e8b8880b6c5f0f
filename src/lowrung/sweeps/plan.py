"""What a sweep is to do: its space, its grid, its settings, and what the preflight found."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf, open_dict

from lowrung.config import grammar
from lowrung.config.schema import Config
from lowrung.engine import hydra_job
from lowrung.engine.base import Engine
from lowrung.errors import UsageError
from lowrung.runs.folder import notes
from lowrung.search import first
from lowrung.search.pruning import Schedule
from lowrung.search.space import Params, Space
from lowrung.store import disk
from lowrung.store.layout import StudyFolder
from lowrung.sweeps import folders, identity, preflight
from lowrung.sweeps.composer import Composer, GridPoint
from lowrung.sweeps.identity import Purpose
from lowrung.sweeps.settings import Settings
from lowrung.track import recording

if TYPE_CHECKING:
    from lowrung.finetune.preflight import Preflight


def require_a_device_map(points: Sequence[GridPoint], gpus: int) -> None:
    """Refuses several GPUs for a model that lies on one: SFTTrainer would use the others for DataParallel, and raise.

    Raises:
        UsageError: when a point's model has no device map.
    """
    if gpus > 1 and any(config.model.device_map != "auto" for point in points for config in point.configs):
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
        purpose: what the trials share; see `lowrung.sweeps.identity`.
        inputs: where models and data are from.
        first: points of a search that are tried first; those of an exact grid are the first in ``points``.
    """

    study: str
    folder: StudyFolder
    space: Space
    points: Sequence[GridPoint]
    n_trials: int
    settings: Settings
    config: Config
    preflights: Mapping[str, "Preflight"]
    purpose: Purpose
    inputs: Mapping[str, str]
    first: Sequence[Params] = ()

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
            UsageError: with every problem of the jobs' folders, or else of the preflight.
        """
        config, master, n_trials = points[0].config, composer.master, settings.n_trials
        with open_dict(master):
            master.track = recording.settled(config.track)
        total = n_trials if space.intervals and n_trials else min(n_trials or len(points), len(points))
        points, tried_first = _in_turn(points, space, settings, total)
        configs = [config for point in points for config in point.configs]
        ends = [*configs, *(point.at_high_ends for point in points)]
        # The name follows from what the preflight finds. Until then: a name that the same command gives again, so that
        # what a killed preflight has left is found and deleted.
        purpose = identity.purpose(ends, (), space, settings)
        given = config.study or f".{_task(master)}-{identity.digest(purpose, settings)}"
        folder = _folder(master, given)
        if problems := folders.Jobs(composer, _named(space, given), folder).problems(points[:total]):
            raise UsageError(problems)
        print("loading libraries, checking model and data (the first time, the model is built: half a minute)")
        known = {preflight.key(config) for config in configs}
        preflights = preflight.check_all(engine, [end for end in ends if preflight.key(end) in known], folder)
        for note in notes(config, list(preflights.values())):
            print(f"note: {note}")
        purpose = identity.purpose(ends, preflights.values(), space, settings)
        name = config.study or f"{_task(master)}-{identity.digest(purpose, settings)}"
        folder = _folder(master, name)
        if problems := list(folders.study_problems(folder, grammar.literal(name))):
            raise UsageError(problems)
        space = _named(space, name)
        inputs = identity.inputs(ends)
        return cls(name, folder, space, points, total, settings, config, preflights, purpose, inputs, tried_first)

    @property
    def seeds(self) -> Sequence[int]:
        """What every point is trained with."""
        return self.space.seeds or (self.config.seed,)

    @property
    def over_seeds(self) -> dict[str, str]:
        """The metrics that are not the mean over a trial's seeds, each with what they are."""
        how = self.settings.over_seeds
        return dict.fromkeys(self.settings.directions, how) if len(self.seeds) > 1 and how != "mean" else {}

    def preflight(self, config: Config) -> "Preflight":
        """What was found for this config's model and data.

        Raises:
            UsageError: when nothing was, since they follow a value that was drawn.
        """
        key = preflight.key(config)
        if key not in self.preflights:
            raise UsageError(
                "model and data must not follow from an interval, but what is read differs between two of its values."
                " Models and data are checked before the first run: give a list of values instead."
            )
        return self.preflights[key]


def _in_turn(
    points: Sequence[GridPoint], space: Space, settings: Settings, n_trials: int
) -> tuple[Sequence[GridPoint], Sequence[Params]]:
    """The points in the order in which they are tried, and those of a search that come before all turns.

    Raises:
        UsageError: when points that are to be tried first are too many, or are not in the grid.
    """
    asked = first.read(settings.first, space)
    if len(asked) > n_trials:
        raise UsageError(
            f"{first.NAME} must have no more points than there are trials, {n_trials}, but has {len(asked)}. Leave some"
            " out, or raise hydra.sweeper.n_trials."
        )
    grid = [point.params for point in points]
    chosen = first.in_turn(asked, grid)
    absent = [
        not any(first.fits(point, at) for at in grid) if space.intervals else i < 0
        for i, point in zip(chosen, asked, strict=True)
    ]
    if lost := [str(number) for number, is_absent in enumerate(absent, start=1) if is_absent]:
        raise UsageError(
            f"{first.NAME} must have points whose runs differ, but the runs of point {', '.join(lost)} are those of"
            " another point, which is tried anyway. Leave it out."
        )
    if space.intervals:
        return points, asked
    return [*(points[i] for i in chosen), *(point for i, point in enumerate(points) if i not in chosen)], ()


def schedules(points: Sequence[GridPoint]) -> list[Schedule]:
    """When the runs of these points are evaluated."""
    return [
        Schedule(train.eval_steps, train.max_steps or sys.maxsize, train.batch_size * train.gradient_accumulation_steps)
        for train in (config.train for point in points for config in point.configs)
    ]


def _named(space: Space, study: str) -> Space:
    """The space whose trials belong to a study of this name."""
    return space.with_study(f"study={grammar.quote(grammar.literal(study))}")


def _folder(master: DictConfig, study: str) -> StudyFolder:
    """The folder of a study of this name, which the sweep has from now on.

    Raises:
        UsageError: when no file can be written there.
    """
    with open_dict(master):
        master.study = grammar.literal(study)
    folder = StudyFolder(Path(hydra_job.sweep_folder(master)).absolute())
    if unwritable := disk.unwritable("hydra.sweep.dir", folder.path):
        raise UsageError(unwritable)
    return folder


def _task(master: DictConfig) -> str:
    """The name of the preset or of the data."""
    choices = OmegaConf.to_container(master.hydra.runtime.choices)
    assert isinstance(choices, dict)
    return str(choices.get("sweeps") or choices.get("data") or "sweep").replace("/", "_")
