"""What a sweep is to do: the search space read and checked, model and data looked at, the study named."""

import dataclasses
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from lowrung.config import commandline, rules, schema
from lowrung.config.schema import Config
from lowrung.engine.base import Ended, Engine, Exit, Job, Reported
from lowrung.errors import UsageError
from lowrung.runs import inputs
from lowrung.search import objectives
from lowrung.search import space as spaces
from lowrung.search.pruning import Schedule
from lowrung.search.space import Params, Space
from lowrung.store import disk
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.sweeps.settings import Settings
from lowrung.sweeps.templates import Templates
from lowrung.track import recording

if TYPE_CHECKING:
    from lowrung.finetune.preflight import Preflight


@dataclasses.dataclass
class Composer:
    """Makes configs out of overrides, as Hydra would for a job of this sweep."""

    hydra_context: HydraContext
    master: DictConfig

    def __post_init__(self) -> None:
        self._templates = Templates(self.hydra_context.config_loader, self.master)

    def space(self, overrides: Sequence[str], settings: Settings, also: Sequence[str] = ()) -> Space:
        """Reads the search space.

        Args:
            overrides: as typed.
            settings: how to sweep.
            also: problems that were found elsewhere, to be said with those found here.

        Raises:
            UsageError: with every problem that any single value of it or of the settings has.
        """
        n_values = settings.n_values
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        readable = [override for text in overrides if (override := commandline.parsed(text, parser))]
        problems = [
            *commandline.problems(overrides, self.compose, parser, _rules),
            *spaces.problems(readable, settings.n_trials, needs_n_trials=n_values is None),
            *settings.problems(),
            *also,
        ]
        if problems:
            raise UsageError(problems)
        space = spaces.parse(overrides, parser)
        if n_values is None or n_values < 2:  # one value is refused with what else the sampler cannot do
            return space
        return space.on_a_grid(n_values)

    def points(self, space: Space, goal: Mapping[str, Mapping[str, str]]) -> list["GridPoint"]:
        """The grid's points, those of equal configs once.

        Args:
            space: the search space.
            goal: the objectives and constraints; see `lowrung.sweeps.settings.Settings.goal`.

        Raises:
            UsageError: when points break a rule.
        """
        points: dict[str, GridPoint] = {}
        problems = dict.fromkeys(_looked_at_problems(space))
        for params in space.grid():
            config = self.config(space.overrides(params))
            problems.update(dict.fromkeys(_rules(config) + objectives.metric_problems(config, goal)))
            identity = schema.digest([schema.determining(config), vars(config.model), dataclasses.asdict(config.data)])
            points.setdefault(identity, GridPoint(params, config))
        if problems:
            raise UsageError(list(problems))
        return list(points.values())

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """A job's config, Hydra's node included."""
        return self._templates.compose(overrides)

    def config(self, overrides: Sequence[str]) -> Config:
        """A job's config as plain dataclasses."""
        return schema.resolve(self.compose(overrides))

    def job(self, overrides: Sequence[str], number: int, subfolder: str) -> DictConfig:
        """The config that Hydra runs job ``number`` with, in a folder of the job's own or one below it."""
        composed = self.compose(overrides)
        with open_dict(composed):
            if subfolder:
                composed.hydra.sweep.subdir = f"{composed.hydra.sweep._get_node('subdir')._value()}/{subfolder}"
            composed.hydra.job.num = number
            composed.hydra.job.id = str(number)
        return composed


def _looked_at_problems(space: Space) -> Iterator[str]:
    """Intervals over what is looked at before the first run: that needs to know every value."""
    for axis in space.intervals:
        if axis.key.startswith(("model.", "data.")):
            yield f"{axis.key} must be a list of values such as {axis.key}=1,2, but is an interval."


def _rules(config: Config) -> list[str]:
    return rules.problems(config) + recording.tracking_problems(config)


@dataclasses.dataclass(frozen=True)
class GridPoint:
    """A point of the grid; the values of intervals are open, and stand at their low ends in ``config``."""

    params: Params
    config: Config


def require_a_device_map(points: Sequence[GridPoint], gpus: int) -> None:
    """Refuses several GPUs for a model that would lie on one: SFTTrainer takes the rest for DataParallel and raises.

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
        settings: how it is run.
        config: of the first point, for what is the same in all.
        preflights: by what they depend on; see `Plan.preflight`.
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
        """Names the study, and looks at each distinct model and data in a process of its own.

        Raises:
            UsageError: with all that was found to be in the way.
        """
        config, master, n_trials = points[0].config, composer.master, settings.n_trials
        name = config.study or _study_name(master, space, settings)
        with open_dict(master):
            master.study = name
        folder = StudyFolder(Path(master.hydra.sweep.dir).absolute())
        if unwritable := disk.unwritable("hydra.sweep.dir", folder.path):
            raise UsageError(unwritable)
        standing = disk.nearest(folder.path)
        alike: dict[str, list[Config]] = {}
        for point in points:
            alike.setdefault(_look_key(point.config), []).append(point.config)
        distinct = {key: inputs.preflight_arguments(configs) for key, configs in alike.items()}
        print("loading libraries, looking at model and data (the first time, the model is built: half a minute)")
        preflights = dict(_look(engine, folder, distinct))
        shutil.rmtree(folder.preflight, ignore_errors=True)
        _remove_empty(folder.path, standing)
        problems = dict.fromkeys(problem for found in preflights.values() for problem in found.problems)
        if problems:
            raise UsageError(list(problems))
        for note in dict.fromkeys(note for found in preflights.values() for note in found.notes):
            print(f"note: {note}")
        total = n_trials if space.intervals and n_trials else min(n_trials or len(points), len(points))
        fixed = (text for text in space.fixed if not text.startswith("study="))
        space = dataclasses.replace(space, fixed=(*fixed, f"study={_quoted(name)}"))
        return cls(name, folder, space, points, total, settings, config, preflights)

    def preflight(self, config: Config) -> "Preflight":
        """What was found for this config's model and data."""
        return self.preflights[_look_key(config)]


def _remove_empty(folder: Path, standing: Path) -> None:
    """Deletes a folder, and those above it that were made for it; what is not empty stays."""
    with suppress(OSError):
        while folder != standing:
            folder.rmdir()
            folder = folder.parent


def schedules(points: Sequence[GridPoint]) -> list[Schedule]:
    """When the runs of these points are evaluated."""
    return [
        Schedule(train.eval_steps, train.max_steps or sys.maxsize, train.batch_size * train.gradient_accumulation_steps)
        for train in (point.config.train for point in points)
    ]


def _study_name(master: DictConfig, space: Space, settings: Settings) -> str:
    """The preset's or the task's name with a hash of the search space; tracking and paths do not count."""
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


def _look_key(config: Config) -> str:
    """What runs share that are looked at together: model and data."""
    arguments = inputs.preflight_arguments([config])
    return schema.digest({name: value for name, value in arguments.items() if name != "adapters"})


def _look(
    engine: Engine, folder: StudyFolder, distinct: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, "Preflight"]]:
    for key, arguments in distinct.items():
        log = RunFolder(folder.preflight)
        ended = _looked(engine, Job(key, log.path, _Look(dict(arguments)), is_limited=False))
        if ended.exit is Exit.DIED:  # what killed it need not have been its own doing
            ended = _looked(engine, Job(key, log.path, _Look(dict(arguments)), is_limited=False))
        if ended.exit is not Exit.RETURNED:
            raise UsageError(f"The model and the data must load, but they do not: {ended.cause}. Read {log.log}.")
        yield key, ended.value


def _looked(engine: Engine, job: Job) -> Ended:
    engine.submit(job)
    return next(event for event in _until_ended(engine) if isinstance(event, Ended))


def _until_ended(engine: Engine) -> Iterator[Reported | Ended]:
    while events := engine.wait():
        yield from events


@dataclasses.dataclass(frozen=True)
class _Look:
    """`lowrung.finetune.preflight.look` as a task."""

    arguments: Mapping[str, Any]

    def __call__(self) -> "Preflight":
        from lowrung.finetune import preflight

        return preflight.look(**self.arguments)
