"""From overrides to configs: the search space is read, its grid composed, and both are held to the rules."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from lowrung.config import commandline, interpolation, repeats, rules, schema, signature
from lowrung.config.schema import Config
from lowrung.engine import hydra_job
from lowrung.errors import UsageError
from lowrung.search import objectives, space
from lowrung.search.space import Params, Space
from lowrung.sweeps import agreement
from lowrung.sweeps.settings import Settings
from lowrung.sweeps.templates import Templates
from lowrung.track import recording


@dataclasses.dataclass(frozen=True)
class GridPoint:
    """A point of the grid.

    Attributes:
        params: its values.
        configs: one for each seed of the sweep's. An interval's value is not chosen yet, and stands at its low end.
        at_high_ends: the first seed's, with each interval at its high end.
        folders: the values of ``hydra.sweep.dir``.
    """

    params: Params
    configs: tuple[Config, ...]
    at_high_ends: Config
    folders: tuple[str, ...]

    @property
    def config(self) -> Config:
        """The first seed's."""
        return self.configs[0]

    @property
    def identity(self) -> str:
        """Equal for points that give the same runs."""
        return schema.digest(
            [
                [signature.determining(config), vars(config.model), dataclasses.asdict(config.data)]
                for config in (*self.configs, self.at_high_ends)
            ]
        )


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
        self._templates = Templates(self.hydra_context.config_loader, self.master)

    def space(self, overrides: Sequence[str], settings: Settings, also: Sequence[str] = ()) -> Space:
        """Reads the search space.

        Args:
            overrides: as typed.
            settings: the fields of ``hydra.sweeper``.
            also: problems that were found elsewhere, to be reported with those found here.

        Raises:
            UsageError: with every problem of a single value, of the axes and of the settings.
        """
        n_values = settings.n_values
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        read = [(text, commandline.parsed(text, parser)) for text in overrides]
        in_force = repeats.in_force([override for _, override in read if override], parser)
        unreadable = [text for text, override in read if not override]
        texts = [override.input_line or "" for override in in_force]
        problems = [
            *commandline.problems([*unreadable, *texts], self._unnumbered, parser, _rules),
            *space.problems(in_force, settings.n_trials, needs_n_trials=n_values is None),
            *settings.problems(),
            *also,
        ]
        if problems:
            raise UsageError(problems)
        made = space.parse(texts, parser)
        if n_values is None or n_values < 2:  # `samplers.problems` refuses a grid of one value
            return made
        return made.on_a_grid(n_values)

    def points(self, space: Space, goal: Mapping[str, Iterable[str]]) -> list[GridPoint]:
        """The grid's points; points with equal configs are one.

        Args:
            space: the search space.
            goal: the metrics that runs must have; see `lowrung.sweeps.settings.Settings.measured`.

        Raises:
            UsageError: when points break a rule.
        """
        found = [self._point(space, params) for params in space.grid()]
        problems = dict.fromkeys(_interval_problems(space))
        for config in (config for point in found for config in point.configs):
            problems.update(dict.fromkeys(_rules(config) + objectives.metric_problems(config, goal)))
        if not problems:
            problems.update(dict.fromkeys(agreement.problems(space, found)))
        if problems:
            raise UsageError(list(problems))
        distinct: dict[str, GridPoint] = {}
        for point in found:
            distinct.setdefault(point.identity, point)
        return list(distinct.values())

    def _point(self, space: Space, params: Params) -> GridPoint:
        seeds = space.seeds or (None,)
        composed = [self._unnumbered(space.overrides(params, seed=seed)) for seed in seeds]
        folders = dict.fromkeys(hydra_job.sweep_folder(one) for one in composed)
        configs = tuple(schema.resolve(one) for one in composed)
        high = configs[0]
        if space.intervals:
            high = schema.resolve(self._unnumbered(space.overrides(params, seed=seeds[0], is_high=True)))
        return GridPoint(params, configs, high, tuple(folders))

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
        return schema.resolve(self.compose(overrides))

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


def _rules(config: Config) -> list[str]:
    return rules.problems(config) + recording.tracking_problems(config)
