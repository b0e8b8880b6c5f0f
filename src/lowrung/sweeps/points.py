"""The points of a search's grids, each with its configs."""

import dataclasses
from collections.abc import Mapping

from lowrung.config import schema, signature
from lowrung.config.schema import Config
from lowrung.search.axes import Params, Value
from lowrung.search.space import Space


@dataclasses.dataclass(frozen=True)
class GridPoint:
    """A point of the grid.

    Attributes:
        space: that it belongs to.
        params: its values.
        configs: one for each seed of the space's. An interval's value is not chosen yet, and stands at its low end.
        at_high_ends: the first seed's, with each interval at its high end.
        folders: the values of ``hydra.sweep.dir``.
    """

    space: Space
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

    @property
    def seeds(self) -> tuple[int, ...]:
        """What its trials are trained with."""
        return self.space.seeds or (self.config.seed,)

    @property
    def is_open(self) -> bool:
        """Whether it has an interval, and so any number of trials."""
        return bool(self.space.intervals)

    def is_of(self, params: Mapping[str, Value]) -> bool:
        """Whether a trial with these values belongs to it."""
        return params.keys() == set(self.space.keys) and all(params[key] == value for key, value in self.params.items())
