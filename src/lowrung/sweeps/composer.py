"""From overrides to configs: the search space is read, its grid composed, and both are held to the rules."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from lowrung.config import commandline, interpolation, repeats, rules, structured, words
from lowrung.config.schema import Config
from lowrung.engine import hydra_job
from lowrung.errors import UsageError
from lowrung.search import objectives, space
from lowrung.search.axes import Interval, Params
from lowrung.search.space import Space
from lowrung.sweeps import agreement
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.searched import Search
from lowrung.sweeps.settings import Settings
from lowrung.sweeps.stage import Stage
from lowrung.sweeps.stages import Asked
from lowrung.sweeps.templates import Templates
from lowrung.track import recording


@dataclasses.dataclass
class Composer:
    """Makes configs out of overrides, as Hydra does for a job of this sweep.

    Attributes:
        hydra_context: Hydra's.
        master: the sweep's composed config, Hydra's node included.
    """

    hydra_context: HydraContext
    master: DictConfig

    def __post_init__(self) -> None:
        with contextlib.suppress(OmegaConfBaseException):  # said of the jobs, where it does not resolve
            hydra_job.sweep_folder(self.master)  # `${now:...}` is read once: jobs copy what the sweep's config has
        self._parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        self._templates = Templates(self.hydra_context.config_loader, self.master)

    def search(self, asked: Asked, settings: Settings, also: Sequence[str] = ()) -> Search:
        """Reads the spaces of all stages.

        Args:
            asked: the stages, with the overrides of their spaces.
            settings: the fields of ``hydra.sweeper``.
            also: problems that were found elsewhere, to be reported with those found here.

        Raises:
            UsageError: with every problem of a single value, of the axes and of the settings.
        """
        possible: dict[str, list[tuple[str, ...]]] = {}
        problems = dict.fromkeys(asked.problems)
        for stage in asked.stages:
            starts = possible[stage.of] if stage.of else [()]
            possible[stage.name] = [(*start, *own) for start in starts for own in stage.spaces]
            for own in stage.spaces:
                problems.update(dict.fromkeys(self._axis_problems(stage, own, settings)))
            for texts in possible[stage.name]:
                problems.update(dict.fromkeys(self._value_problems(texts)))
        problems.update(dict.fromkeys([*settings.problems(), *also]))
        if problems:
            raise UsageError(list(problems))
        spaces = {name: [self.space(texts, settings) for texts in lists] for name, lists in possible.items()}
        alone = {stage.name: [self.space(texts, settings) for texts in stage.spaces] for stage in asked.stages}
        search = Search.of(asked.stages, spaces, alone)
        if found := search.problems():
            raise UsageError(found)
        return search

    def space(self, overrides: Sequence[str], settings: Settings) -> Space:
        """The space of these overrides; with ``sampler=grid``, lists in the place of its intervals."""
        made = space.parse([override.input_line or "" for override in self._in_force(overrides)], self._parser)
        n_values = settings.n_values
        if n_values is None or n_values < 2:  # `samplers.problems` refuses a grid of one value
            return made
        return made.on_a_grid(n_values)

    def _axis_problems(self, stage: Stage, overrides: Sequence[str], settings: Settings) -> list[str]:
        return space.problems(
            self._in_force(overrides),
            stage.n_trials,
            needs_n_trials=settings.n_values is None,
            setting=stage.n_trials_setting,
        )

    def _value_problems(self, overrides: Sequence[str]) -> list[str]:
        unreadable = [text for text in overrides if not commandline.parsed(text, self._parser)]
        texts = [override.input_line or "" for override in self._in_force(overrides)]
        return commandline.problems([*unreadable, *texts], self._unnumbered, self._parser, _rules)

    def _in_force(self, overrides: Sequence[str]) -> list[Override]:
        """What can be read of the overrides, without those that a later one replaces."""
        read = [commandline.parsed(text, self._parser) for text in overrides]
        return repeats.in_force([override for override in read if override], self._parser)

    def points_of(self, search: Search, goal: Mapping[str, Iterable[str]]) -> dict[str, list[GridPoint]]:
        """The points of each stage, or all that it may have, by the stage's name; points with equal configs are one.

        Args:
            search: what is searched.
            goal: the metrics that runs must have; see `lowrung.sweeps.settings.Settings.measured`.

        Raises:
            UsageError: when points break a rule.
        """
        found = {name: self._points(spaces) for name, spaces in search.spaces.items()}
        every = [point for each in found.values() for point in each]
        problems = _point_problems(search.all_spaces, every, goal) or list(agreement.problems(every))
        distinct = {name: _distinct(each) for name, each in found.items()}
        if problems := problems or list(_idle_problems(search, distinct)):
            raise UsageError(list(dict.fromkeys(problems)))
        return distinct

    def points(self, spaces: Sequence[Space], goal: Mapping[str, Iterable[str]]) -> list[GridPoint]:
        """The points of a stage that begins; see `points_of`.

        Raises:
            UsageError: when points break a rule, as can be where a value was drawn from an interval.
        """
        found = self._points(spaces)
        if problems := _point_problems(spaces, found, goal):
            raise UsageError(problems)
        return _distinct(found)

    def _points(self, spaces: Sequence[Space]) -> list[GridPoint]:
        """The points of the spaces' grids.

        Raises:
            UsageError: when a point has a setting that cannot be resolved, though each value by itself is good.
        """
        found: list[GridPoint] = []
        problems: dict[str, None] = {}
        for of_space, params in ((one, params) for one in spaces for params in one.grid()):
            try:
                found.append(self._point(of_space, params))
            except commandline.COMPOSITION_ERRORS as error:
                problems[words.of_setting(error) or words.first_line(error)] = None
        if problems:
            raise UsageError(list(problems))
        return found

    def exact(self, space: Space, params: Params) -> GridPoint:
        """The one point that has these values, of intervals too."""
        parts = tuple(
            f"{part.prefix}{part.key}={params[part.key]}" if isinstance(part, Interval) else part
            for part in space.parts
        )
        return self._point(dataclasses.replace(space, parts=parts), params)

    def _point(self, space: Space, params: Params) -> GridPoint:
        seeds = space.seeds or (None,)
        composed = [self._unnumbered(space.overrides(params, seed=seed)) for seed in seeds]
        folders = dict.fromkeys(hydra_job.sweep_folder(one) for one in composed)
        configs = tuple(structured.resolve(one) for one in composed)
        high = configs[0]
        if space.intervals:
            high = structured.resolve(self._unnumbered(space.overrides(params, seed=seeds[0], is_high=True)))
        return GridPoint(space, params, configs, high, tuple(folders))

    def _unnumbered(self, overrides: Sequence[str]) -> DictConfig:
        """A job's config before the job has a number; see `lowrung.sweeps.agreement.NO_NUMBER`."""
        return self.job(overrides, agreement.NO_NUMBER, "")

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """A job's config, Hydra's node included. The clock stands still in a sweep: what one job reads, all read."""
        composed = self._templates.compose(overrides)
        composed._metadata.resolver_cache = self.master._metadata.resolver_cache
        return composed

    def config(self, overrides: Sequence[str]) -> Config:
        """A job's config as plain dataclasses."""
        return structured.resolve(self.compose(overrides))

    def job(self, overrides: Sequence[str], number: int, subfolder: str) -> DictConfig:
        """The config that Hydra runs job ``number`` with, in a folder of the job's own or one below it."""
        composed = self.compose(overrides)
        with open_dict(composed):
            if subfolder:
                composed.hydra.sweep.subdir = f"{composed.hydra.sweep._get_node('subdir')._value()}/{subfolder}"
            composed.hydra.job.num = number
            composed.hydra.job.id = str(number)
        with interpolation.own_hydra_node(composed):  # a setting may follow the job's folder
            interpolation.set_output_folder(composed, composed.hydra.sweep.dir, str(composed.hydra.sweep.subdir))
        return composed


def _interval_problems(space: Space) -> Iterator[str]:
    """Intervals over settings of the model or the data: the preflight reads these, so it needs every value."""
    for axis in space.intervals:
        if axis.key.startswith(("model.", "data.")):
            yield (
                f"{axis.key} must be a list of values such as {axis.key}=1,2, but is an interval. Models and data are"
                " checked before the first run, so every value must be known."
            )


def _point_problems(
    spaces: Sequence[Space], points: Sequence[GridPoint], goal: Mapping[str, Iterable[str]]
) -> list[str]:
    problems = dict.fromkeys(problem for space in spaces for problem in _interval_problems(space))
    for config in (config for point in points for config in point.configs):
        problems.update(dict.fromkeys(_rules(config) + objectives.metric_problems(config, goal)))
    return list(problems)


def _distinct(points: Sequence[GridPoint]) -> list[GridPoint]:
    """The points, those with equal configs once."""
    distinct: dict[str, GridPoint] = {}
    for point in points:
        distinct.setdefault(point.identity, point)
    return list(distinct.values())


def _idle_problems(search: Search, points: Mapping[str, Sequence[GridPoint]]) -> Iterator[str]:
    """Stages whose points are all those of the stage that they start from."""
    for stage in search.stages:
        if stage.of and not any(space.intervals for space in search.own[stage.name]):
            before = {point.identity for point in points[stage.of]}
            if all(point.identity in before for point in points[stage.name]):
                yield (
                    f"stage {stage.name!r} must change something of what it starts from, but all its points are those"
                    f" of {stage.of!r}. (What is typed on the command line takes precedence over its values.) Leave it"
                    " out, or give it other values."
                )


def _rules(config: Config) -> list[str]:
    return rules.problems(config) + recording.tracking_problems(config)
