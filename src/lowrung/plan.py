"""What a sweep is to do: the search space read and checked, model and data looked at, the study named."""

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from lowrung import app, check, commandline, recording, schema
from lowrung.engine.base import Ended, Engine, How, Job, Reported
from lowrung.errors import UsageError
from lowrung.layout import RunFolder, StudyFolder
from lowrung.schema import Config
from lowrung.search import space as spaces
from lowrung.search.space import Params, Space

if TYPE_CHECKING:
    from lowrung.finetune.preflight import Preflight


@dataclasses.dataclass
class Composer:
    """Makes configs out of overrides, as Hydra would for a job of this sweep."""

    hydra_context: HydraContext
    master: DictConfig

    def space(self, overrides: Sequence[str], n_trials: int | None, objectives: Mapping[str, str]) -> Space:
        """Reads the search space.

        Raises:
            UsageError: with every problem that any single value of it has.
        """
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        readable = [override for text in overrides if (override := commandline.parsed(text, parser))]
        problems = [
            *commandline.problems(overrides, self.compose, parser, _rules),
            *spaces.problems(readable, n_trials),
            *check.objective_problems(objectives),
        ]
        if problems:
            raise UsageError(problems)
        return spaces.parse(overrides, parser)

    def points(self, space: Space, objectives: Mapping[str, str]) -> list["GridPoint"]:
        """The grid's points, those of equal configs once.

        Raises:
            UsageError: when points break a rule.
        """
        points: dict[str, GridPoint] = {}
        problems = dict.fromkeys(_looked_at_problems(space))
        for params in space.grid():
            config = self.config(space.overrides(params))
            problems.update(dict.fromkeys(_rules(config) + check.metric_problems(config, objectives)))
            identity = schema.digest([schema.determining(config), vars(config.model), dataclasses.asdict(config.data)])
            points.setdefault(identity, GridPoint(params, config))
        if problems:
            raise UsageError(list(problems))
        return list(points.values())

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """A job's config, Hydra's node included."""
        return self.hydra_context.config_loader.load_sweep_config(self.master, list(overrides))

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
    return check.rules(config) + recording.tracking_problems(config)


@dataclasses.dataclass(frozen=True)
class GridPoint:
    """A point of the grid; the values of intervals are open, and stand at their low ends in ``config``."""

    params: Params
    config: Config


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to sweep; the fields are those of `LowrungSweeperConf`, which says what they mean."""

    n_trials: int | None = None
    objectives: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"eval/loss": "minimize"})
    sampler: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "tpe"})
    pruner: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "none"})
    fresh: bool = False
    retries: int = 1
    max_failures: int = 5


def search_problems(how: Settings, space: Space, points: Sequence[GridPoint]) -> list[str]:
    """What the sampler and the pruner cannot do with this space and these schedules."""
    from lowrung.search import pruning, samplers

    schedules = [
        pruning.Schedule(
            train.eval_steps, train.max_steps or sys.maxsize, train.batch_size * train.gradient_accumulation_steps
        )
        for train in (point.config.train for point in points)
    ]
    limits = (("retries", how.retries, 0), ("max_failures", how.max_failures, 1))
    return [
        *(
            f"hydra.sweeper.{name} must be at least {least}, but is {value}."
            for name, value, least in limits
            if value < least
        ),
        *samplers.problems(how.sampler, how.objectives, space),
        *pruning.problems(how.pruner, how.objectives, schedules, seeds=len(space.seeds) or 1),
    ]


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
        objectives: metrics and their directions.
        config: of the first point, for what is the same in all.
        preflights: by what they depend on; see `Plan.preflight`.
    """

    study: str
    folder: StudyFolder
    space: Space
    points: Sequence[GridPoint]
    n_trials: int
    objectives: Mapping[str, str]
    config: Config
    preflights: Mapping[str, "Preflight"]

    @classmethod
    def make(
        cls,
        composer: Composer,
        space: Space,
        points: Sequence[GridPoint],
        master: DictConfig,
        n_trials: int | None,
        objectives: Mapping[str, str],
        engine: Engine,
    ) -> "Plan":
        """Names the study, and looks at each distinct model and data in a process of its own.

        Raises:
            UsageError: with all that was found to be in the way.
        """
        config = points[0].config
        name = config.study or _study_name(master, space, objectives)
        with open_dict(master):
            master.study = name
        folder = StudyFolder(Path(master.hydra.sweep.dir).absolute())
        alike: dict[str, list[Config]] = {}
        for point in points:
            alike.setdefault(_look_key(point.config), []).append(point.config)
        distinct = {key: app.look_arguments(configs) for key, configs in alike.items()}
        print("loading libraries, looking at model and data (the first time, the model is built: half a minute)")
        preflights = dict(_look(engine, folder, distinct))
        problems = dict.fromkeys(problem for found in preflights.values() for problem in found.problems)
        if problems:
            raise UsageError(list(problems))
        for note in dict.fromkeys(note for found in preflights.values() for note in found.notes):
            print(f"note: {note}")
        total = n_trials if space.intervals and n_trials else min(n_trials or len(points), len(points))
        fixed = (text for text in space.fixed if not text.startswith("study="))
        space = dataclasses.replace(space, fixed=(*fixed, f"study={_quoted(name)}"))
        return cls(name, folder, space, points, total, objectives, config, preflights)

    def preflight(self, config: Config) -> "Preflight":
        """What was found for this config's model and data."""
        return self.preflights[_look_key(config)]


def _study_name(master: DictConfig, space: Space, objectives: Mapping[str, str]) -> str:
    """The preset's or the task's name with a hash of the search space; tracking and paths do not count."""
    choices = OmegaConf.to_container(master.hydra.runtime.choices)
    assert isinstance(choices, dict)
    task = str(choices.get("sweeps") or choices.get("data") or "sweep").replace("/", "_")
    fixed = sorted(text for text in space.fixed if not text.startswith(("track", "store=", "study=", "sweeps=")))
    axes = {axis.key: axis.distinct for axis in space.choices}
    searched = [dataclasses.asdict(axis) for axis in space.intervals]
    return f"{task}-{schema.digest([fixed, axes, searched, dict(objectives), space.seeds])[:6]}"


def _quoted(name: str) -> str:
    """A study's name as an override's value; quoted where Hydra would read more than a word."""
    return name if re.fullmatch(r"[A-Za-z_][\w-]*", name) else QuotedString(name, Quote.single).with_quotes()


def _look_key(config: Config) -> str:
    """What runs share that are looked at together: model and data."""
    arguments = app.look_arguments([config])
    return schema.digest({name: value for name, value in arguments.items() if name != "adapters"})


def _look(
    engine: Engine, folder: StudyFolder, distinct: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, "Preflight"]]:
    for key, arguments in distinct.items():
        log = RunFolder(folder.preflight)
        engine.submit(Job(key, log.path, _Look(dict(arguments))))
        ended = next(event for event in _until_ended(engine) if isinstance(event, Ended))
        if ended.how is not How.RETURNED:
            raise UsageError(f"The model and the data must load, but they do not: {ended.cause}. Read {log.log}.")
        yield key, ended.value


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
