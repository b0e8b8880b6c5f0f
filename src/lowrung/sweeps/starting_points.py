"""Where a later stage of a sweep starts: what it takes over from the trials of an earlier one."""

import dataclasses
from collections.abc import Mapping, Sequence

from lowrung.comparison import standings
from lowrung.comparison.standings import Place
from lowrung.comparison.trials import judged
from lowrung.report import leaderboard
from lowrung.report.leaderboard import TrialRow
from lowrung.store.outcome import Status
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.stage import TIES, Stage
from lowrung.sweeps.stage_trials import StageTrial, StageTrials


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What a stage starts from.

    Attributes:
        rows: the trials, best first; none where no trial is fit.
        notes: why trials were left out that may be as good, a sentence each.
    """

    rows: Sequence[TrialRow]
    notes: Sequence[str] = ()


def chosen(stage: Stage, rows: Sequence[TrialRow], objectives: Mapping[str, str]) -> Chosen:
    """The trials that a stage starts from.

    It follows from the results alone, so a sweep that goes on makes the same choice.

    Args:
        stage: the one that starts.
        rows: the trials of the stage that it starts from. Complete ones that keep to the constraints
            and have a finite value of the first objective are fit.
        objectives: metrics and their directions; the first one ranks.
    """
    best = leaderboard.ranked(judged(rows, next(iter(objectives))), objectives)
    if stage.start == TIES:
        found = standings.standings(best, objectives)
        notes = [
            f"trial {number} could not be compared with the best, and is left out: {found.of[number].reason}"
            for number in found.at(Place.UNKNOWN)
            if number != found.best
        ]
        return Chosen([row for row in best if row.number in found.ties or row.number == found.best], notes)
    return Chosen(best[: stage.start if isinstance(stage.start, int) else 1])


def points(stage: Stage, starts: Sequence[StageTrial], plan: Plan, composer: Composer) -> list[GridPoint]:
    """The points of a stage that starts at these trials: each joined with what the stage itself searches.

    Raises:
        UsageError: when a point breaks a rule, as can be where a value was drawn from an interval.
    """
    spaces = [
        plan.search.union.joined(composer.space([*_overrides(start), *own], plan.settings))
        for start in starts
        for own in stage.spaces
    ]
    return composer.points(spaces, plan.settings.measured)


def shared(
    trials: StageTrials, earlier: Sequence[StageTrials], rows: Mapping[int, TrialRow], composer: Composer
) -> dict[int, StageTrial]:
    """The trials of earlier stages that are at points of this one, by number: they count for both.

    Args:
        trials: those of the stage that begins, none so far.
        earlier: those of the stages that have begun before.
        rows: the trials that have ended.
        composer: composes their configs.
    """
    at = {point.identity: point for point in trials.points if not point.is_open}
    found: dict[int, StageTrial] = {}
    for number, ended in ((number, ended) for stage in earlier for number, ended in stage.ended.items()):
        if number in rows and rows[number].outcome.status in (Status.COMPLETE, Status.DIVERGED):
            point = at.pop(composer.exact(ended.point.space, ended.params).identity, None)
            if point is not None:
                found[number] = StageTrial(point, ended.params)
    return found


def _overrides(start: StageTrial) -> list[str]:
    """What made a trial; a later override of the same key takes its place."""
    space = start.point.space
    seeds = [f"seed=choice({','.join(map(str, space.seeds))})"] if space.seeds else []
    return [*space.overrides(start.params), *seeds]
