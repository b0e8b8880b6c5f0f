"""Where each trial of a sweep stands against the best: numbers only, the words are in `lowrung.report.verdict`."""

import dataclasses
import enum
import statistics
from collections.abc import Mapping, Sequence

from lowrung.comparison import evidence
from lowrung.comparison.best import Judgement, against_best
from lowrung.comparison.paired import Difference, NotComparable, Runs
from lowrung.comparison.trials import Trial, best_of, judged


class Place(enum.StrEnum):
    """Where a trial stands."""

    BEST = "best"
    TIE = "tie"
    WORSE = "worse"
    BETTER = "better"
    """Better than the best, which was chosen by something else than what is compared: the median of seeds, say."""
    UNKNOWN = "unknown"


class Method(enum.StrEnum):
    """What trials are compared by."""

    EXAMPLES = "examples"
    """Differences on each held-out example."""
    SEEDS = "seeds"
    """Differences of the metric on each seed."""
    COUNTS = "counts"
    """Differences of counts, which have no error."""


@dataclasses.dataclass(frozen=True)
class Standing:
    """A trial against the best one.

    Attributes:
        place: the result; a trial that could not be compared is `Place.UNKNOWN`.
        difference: its value minus the best's, in the unit of `Standings.compared_by`.
        half_width: of the interval around the difference.
        p_value: of the difference, corrected for the choice of the best; see `lowrung.comparison.best`.
        seeds: how many the difference is over.
        noise: the standard deviation of the difference from one seed to the next, where there are several.
        reason: why it could not be compared, a sentence.
        found: the difference with all that is known of it, for `lowrung.comparison.needed`.
    """

    place: Place
    difference: float | None = None
    half_width: float | None = None
    p_value: float | None = None
    seeds: int = 0
    noise: float | None = None
    reason: str = ""
    found: Difference | None = None


@dataclasses.dataclass(frozen=True)
class Standings:
    """The trials of a sweep against the best.

    Attributes:
        metric: the first objective.
        direction: ``minimize`` or ``maximize``.
        method: what they are compared by.
        best: the number of the best trial; None where no trial takes part.
        of: by the trials' numbers; those that do not take part (pruned, failed, breaking a constraint) are absent.
        examples: held-out examples that the comparisons are over; 0 where they are not by examples.
    """

    metric: str
    direction: str
    method: Method
    best: int | None
    of: Mapping[int, Standing]
    examples: int = 0

    @property
    def compared_by(self) -> str:
        """The metric whose differences are given; see `lowrung.comparison.evidence.compared_by`."""
        return evidence.compared_by(self.metric)

    @property
    def ties(self) -> list[int]:
        """The best trial and those that tie with it, by number."""
        return self.at(Place.BEST, Place.TIE)

    def at(self, *places: Place) -> list[int]:
        """The trials at these places, by number."""
        return [number for number, standing in self.of.items() if standing.place in places]


def standings(trials: Sequence[Trial], objectives: Mapping[str, str]) -> Standings:
    """Compares all complete trials that keep to the constraints with the best of them.

    By the sums of each held-out example where the metric has them, paired; any other metric goes by its values on each
    seed, paired. Trials whose evidence is missing, damaged or of other data are not compared.

    Args:
        trials: any; those that do not take part are left out.
        objectives: metrics and their directions; the first one counts.
    """
    metric, direction = next(iter(objectives.items()))
    best = best_of(trials, objectives)
    if best is None:
        return Standings(metric, direction, Method.COUNTS, None, {})
    rivals = judged(trials, metric)
    if metric.startswith(evidence.COUNTED):
        return Standings(metric, direction, Method.COUNTS, best.number, _counted(rivals, best, metric))
    runs, method = _runs(rivals, best, metric)
    judgements = _judgements(runs, best.number)
    of = {rival.number: _standing(rival, best, judgements[rival.number], objectives) for rival in rivals}
    examples = max((one.difference.examples for one in judgements.values() if one.difference), default=0)
    return Standings(metric, direction, method, best.number, of, examples)


def _counted(rivals: Sequence[Trial], best: Trial, metric: str) -> dict[int, Standing]:
    found = {}
    for rival in rivals:
        difference = rival.outcome.metrics[metric] - best.outcome.metrics[metric]
        place = Place.WORSE if difference else Place.TIE
        found[rival.number] = Standing(Place.BEST if rival is best else place, difference, 0.0, seeds=len(rival.seeds))
    return found


def _runs(rivals: Sequence[Trial], best: Trial, metric: str) -> tuple[dict[int, Runs | NotComparable], Method]:
    """What each trial's runs are compared by, or why a trial has no such thing, by number."""
    files = evidence.by_seed(rivals, metric)
    found: dict[int, Runs | NotComparable] = {}
    if files is None:
        found |= {rival.number: evidence.values(rival, metric) for rival in rivals}
        return found | _parts(rivals), Method.SEEDS
    data = {}
    for rival in rivals:
        try:
            found[rival.number], data[rival.number] = evidence.sums(rival, files[rival.number], metric)
        except NotComparable as error:
            found[rival.number] = error
    for number, digest in data.items():
        if digest != data.get(best.number, digest):
            found[number] = NotComparable(f"Scored on other held-out data than the best, trial {best.number}.")
    return found | _parts(rivals), Method.EXAMPLES


def _parts(rivals: Sequence[Trial]) -> dict[int, NotComparable]:
    """Trials whose runs are a part of another's, as where a later stage adds seeds to a point."""
    sharing: dict[str, list[Trial]] = {}
    for rival in rivals:
        for run in rival.seeds:
            sharing.setdefault(run.folder, []).append(rival)
    found = {}
    for rival in rivals:
        own = {run.folder for run in rival.seeds}
        for other in sharing[next(iter(own))] if own else []:
            if own < {run.folder for run in other.seeds}:
                found[rival.number] = NotComparable("Another trial has the same runs, and more seeds.")
    return found


def _judgements(runs: Mapping[int, Runs | NotComparable], best: int) -> dict[int, Judgement]:
    """By number. Where the best has nothing to be compared by, no trial is compared."""
    refused = {number: one for number, one in runs.items() if isinstance(one, NotComparable)}
    if (of_best := refused.get(best)) is not None:
        refused = {number: NotComparable(f"Of the best, trial {best}: {of_best}") for number in runs}
        refused[best] = of_best
    compared = {number: one for number, one in runs.items() if not isinstance(one, NotComparable)}
    found = {number: Judgement(None, 1.0, is_tie=False, reason=str(error)) for number, error in refused.items()}
    if best not in found:
        found |= zip(compared, against_best(list(compared.values()), list(compared).index(best)), strict=True)
    return found


def _standing(rival: Trial, best: Trial, judgement: Judgement, objectives: Mapping[str, str]) -> Standing:
    metric, direction = next(iter(objectives.items()))
    found = judgement.difference
    if rival is best:
        return Standing(Place.BEST, seeds=len(rival.seeds))
    if found is None:
        return Standing(Place.UNKNOWN, seeds=len(rival.seeds), reason=judgement.reason)
    is_worse = (found.estimate < 0) == (direction == "maximize")
    place = Place.TIE if judgement.is_tie else Place.WORSE if is_worse else Place.BETTER
    return Standing(
        place,
        found.estimate,
        found.half_width,
        judgement.p_value,
        len(found.seeds),
        _noise(rival, best, metric),
        found=found,
    )


def _noise(rival: Trial, best: Trial, metric: str) -> float | None:
    one, other = (evidence.values(trial, evidence.compared_by(metric)) for trial in (rival, best))
    differences = [one[seed] - other[seed] for seed in one.keys() & other.keys()]
    return statistics.stdev(differences) if len(differences) > 1 else None
