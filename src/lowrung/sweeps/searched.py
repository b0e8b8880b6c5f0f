"""What a sweep searches: the spaces of its stages, as one study."""

import dataclasses
from collections.abc import Mapping, Sequence

from lowrung.search import union
from lowrung.search.space import Space
from lowrung.search.union import Union
from lowrung.sweeps.stage import Stage


@dataclasses.dataclass(frozen=True)
class Search:
    """The spaces of a sweep's stages.

    Attributes:
        stages: in order, at least one.
        spaces: by the stage's name. Those of the first stage are what it searches. A later stage's hold all that it may
            search: the axes of what it starts from are still open in them.
        own: the same, but for what they start from: what each stage searches itself.
        union: of all spaces.
    """

    stages: Sequence[Stage]
    spaces: Mapping[str, Sequence[Space]]
    own: Mapping[str, Sequence[Space]]
    union: Union

    @classmethod
    def of(
        cls, stages: Sequence[Stage], spaces: Mapping[str, Sequence[Space]], own: Mapping[str, Sequence[Space]]
    ) -> "Search":
        """The search; its spaces are joined."""
        joint = Union.of([space for each in spaces.values() for space in each])
        joined = {name: [joint.joined(space) for space in each] for name, each in spaces.items()}
        return cls(stages, joined, own, joint)

    def stage(self, name: str) -> Stage:
        """The stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def is_united(self) -> bool:
        """Whether there is more than one space, so that a trial may be compared with some others only."""
        return len(self.all_spaces) > 1

    @property
    def all_spaces(self) -> list[Space]:
        """Those of all stages."""
        return [space for each in self.spaces.values() for space in each]

    @property
    def seeds(self) -> int:
        """The most seeds that any trial is trained with."""
        return max(len(space.seeds) or 1 for space in self.all_spaces)

    def problems(self) -> list[str]:
        """What keeps the spaces from being parts of one study."""
        return union.problems(self.all_spaces)

    @property
    def keys(self) -> list[str]:
        """All parameters of the study."""
        return list(self.union.domains)

    def described(self) -> dict[str, dict[str, str]]:
        """The search in words, the same however it was written."""
        (first, *others) = self.all_spaces
        if not others:
            return first.described()
        described = {"axes": self.union.described(), "seeds": first.described()["seeds"]}
        if not self.stages[0].name:
            return {**described, "spaces": {"hydra.sweeper.spaces": self._texts(self.stages[0])}}
        starts = {stage.name: f"{stage.start} of {stage.of}: " if stage.of else "" for stage in self.stages}
        stages = {f"stage {stage.name}": starts[stage.name] + self._texts(stage) for stage in self.stages}
        return {**described, "stages": stages}

    def _texts(self, stage: Stage) -> str:
        """A stage's spaces."""
        described = [space.described() for space in self.spaces[stage.name]]
        return "; ".join(sorted(" ".join(_pairs({**one["axes"], **one["seeds"]})) for one in described))


def _pairs(texts: Mapping[str, str]) -> list[str]:
    return [f"{key}={text}" for key, text in sorted(texts.items())]
