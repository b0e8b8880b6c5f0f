"""The sentences of a verdict: the answer, what it rests on, and what the data do not allow to say."""

import math
from collections.abc import Iterator, Mapping, Sequence

from lowrung.comparison.needed import is_equal_within
from lowrung.comparison.standings import Method, Place, Standing, Standings
from lowrung.report.leaderboard import TrialRow
from lowrung.report.tables import counted, number
from lowrung.report.trial_names import TrialNames, trials
from lowrung.store.outcome import Status

_LEVEL = "95%"
_ROUNDING = 1e-9
"""A half-width that is a smaller share of its difference is rounding: the examples all differ by the same."""
_COSTS = ("params/", "adapter/", "time/", "memory/")


def cell(standing: Standing) -> str:
    """``best``, ``tie``, ``+0.012 ± 0.004``, or empty where the trial could not be compared."""
    if standing.place is Place.UNKNOWN:
        return ""
    return str(standing.place) if standing.place in (Place.BEST, Place.TIE) else difference(standing)


def difference(standing: Standing, *, is_absolute: bool = False) -> str:
    """``+0.012 ± 0.004``, in as many digits as its half-width is known to be large; counts have no half-width."""
    value, half_width = standing.difference or 0.0, standing.half_width or 0.0
    value = abs(value) if is_absolute else value
    sign = "" if is_absolute else "+"
    if half_width <= _ROUNDING * abs(value):
        return f"{value:{sign},.6g}"
    digits = max(0, 1 - math.floor(math.log10(half_width)))
    if digits > 6:
        return f"{value:{sign}.1e} ± {half_width:.1e}"
    return f"{value:{sign}.{digits}f} ± {half_width:.{digits}f}"


def _repeated(found: Standings, judged: Sequence[TrialRow]) -> list[TrialRow]:
    """Trials that tie, and whose settings a later stage trained again: they are the same choice."""
    tied = [row for row in judged if found.of[row.number].place in (Place.BEST, Place.TIE)]
    last = {tuple(sorted(row.point.items())): row.stage_index for row in sorted(tied, key=lambda row: row.stage_index)}
    return [row for row in tied if row.stage_index < last[tuple(sorted(row.point.items()))]]


def _is_equal(standing: Standing, margin: float) -> bool:
    """Whether a trial is shown to differ from the best by less than a margin."""
    if standing.found is None:
        return abs(standing.difference or 0.0) < margin
    return is_equal_within(standing.found, margin)


class Sentences:
    """The sentences of a verdict.

    Args:
        found: the standings.
        rows: all trials.
        judged: those that take part, best first.
        prefer: see `make`.
        smallest: see `make`.
    """

    def __init__(
        self,
        found: Standings,
        rows: Sequence[TrialRow],
        judged: Sequence[TrialRow],
        prefer: Sequence[str],
        smallest: float | None,
    ) -> None:
        self._found, self._rows, self._prefer = found, rows, prefer
        self._repeated = _repeated(found, judged)
        self._judged = [row for row in judged if row not in self._repeated]
        self._smallest = smallest
        self._names = TrialNames(rows)
        self._ties = self._at(Place.BEST, Place.TIE)

    def _at(self, *places: Place) -> list[TrialRow]:
        """The trials at these places, best first."""
        return [row for row in self._judged if self._found.of[row.number].place in places]

    @property
    def _best(self) -> TrialRow:
        return next(row for row in self._judged if row.number == self._found.best)

    @property
    def preferred(self) -> TrialRow:
        """Of the trials that tie the one that costs least; of equal ones the best."""
        return min(self._ties, key=self._costs)

    def _costs(self, row: TrialRow) -> list[float]:
        return [row.outcome.numbers.get(name, math.inf) for name in self._prefer]

    # -- the answer ----------------------------------------------------------------------------------------------------

    def answer(self) -> str:
        """The first sentence."""
        if not self._judged:
            return self._nobody()
        best = self._names.numbered(self._best)
        if len(self._judged) == 1:
            only = "choice" if self._repeated else "one"  # its settings were trained twice, in two stages
            others = f"the only {only} of {len(self._rows)} trials" if len(self._rows) > 1 else "the only trial"
            return f"{best} is {others} that can be judged: there is nothing to compare it with"
        if earlier := self._better_earlier():
            by = difference(self._found.of[earlier[0].number], is_absolute=True)
            are, up_to = ("is", "") if len(earlier) == 1 else ("are", "up to ")
            numbers = trials(sorted(row.number for row in earlier))
            return f"{best} is the best of the last stage, but {numbers} of an earlier one {are} better, by {up_to}{by}"
        if len(self._ties) > 1:
            return self._tied()
        worse = self._at(Place.WORSE)
        if not worse:
            return f"{best} has the best {self._found.metric}, but nothing is known of how sure that is"
        return self._better(best, worse)

    def _better_earlier(self) -> list[TrialRow]:
        """Trials of earlier stages that are better than the best of the last stage, the clearest first."""
        better = [row for row in self._at(Place.BETTER) if row.stage_index < self._best.stage_index]
        return sorted(better, key=lambda row: -abs(self._found.of[row.number].difference or 0.0))

    def _nobody(self) -> str:
        complete = [row for row in self._rows if row.outcome.status is Status.COMPLETE]
        if not self._rows:
            return "no trial has ended"
        if any(row.broken for row in complete):
            return f"no complete trial keeps to the constraints ({counted(len(complete), 'trial')}): take none"
        if complete:
            is_measured = any(self._found.metric in row.outcome.metrics for row in complete)
            return f"no trial has {'a finite' if is_measured else 'measured'} {self._found.metric}: take none"
        ends = [str(row.outcome.status) for row in self._rows]
        counts = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
        return f"no trial was trained to its end ({counts}): none can be judged"

    def _tied(self) -> str:
        names = self._names.several(sorted(self._ties, key=lambda row: row.number))
        is_exact = self._found.method is Method.COUNTS
        tie = f"{names} have the same {self._found.metric}" if is_exact else f"{names} tie ({_LEVEL})"
        chosen = self.preferred
        if all(self._costs(row) == self._costs(chosen) for row in self._ties):
            return f"{tie}, at equal cost; the best is {self._names.numbered(chosen)}"
        name = next(n for n in self._prefer if len({row.outcome.numbers.get(n) for row in self._ties}) > 1)
        settings, cost = self._names.one(chosen), _cost(name, chosen)
        inside = cost if settings == f"trial {chosen.number}" else f"trial {chosen.number}, {cost}"
        if name.startswith(_COSTS):
            return f"{tie}; the cheapest is {settings} ({inside})"
        return f"{tie}; the smallest {name} has {settings} ({inside})"

    def _better(self, best: str, worse: Sequence[TrialRow]) -> str:
        next_best = min(worse, key=lambda row: abs(self._found.of[row.number].difference or 0.0))
        name, by = self._names.one(next_best), difference(self._found.of[next_best.number], is_absolute=True)
        unknown = self._at(Place.UNKNOWN)
        if len(worse) == 1:
            rest = f", and {counted(len(unknown), 'other')} could not be compared" if unknown else ""
            return f"{best} is better than {name}, by {by}{rest}"
        all_others = f"{len(worse)} others" if self._at(Place.BETTER) else "all others"
        others = f"the {len(worse)} others that could be compared" if unknown else all_others
        return f"{best} is better than {others}: the next, {name}, is worse by {by}"

    # -- what is to be known of it -------------------------------------------------------------------------------------

    def notes(self, objectives: Mapping[str, str]) -> list[str]:
        """What the answer rests on, and what it does not say; of a single choice only which trials it is."""
        if len(self._judged) < 2:
            return list(self._counted_once())
        compared = self._at(Place.TIE, Place.WORSE, Place.BETTER)
        notes = list(self._method(compared)) if compared else []
        if self._found.compared_by != self._found.metric:
            notes.append(f"Differences are those of {self._found.compared_by}, of which {self._found.metric} follows.")
        if len(objectives) > 1:
            notes.append(f"All this is by {self._found.metric}, the first objective.")
        return [*notes, *self._bounds(), *self._small(), *self._contradictions(), *self._not_compared()]

    def _method(self, compared: Sequence[TrialRow]) -> Iterator[str]:
        found = [self._found.of[row.number] for row in compared]
        fewest, most = min(one.seeds for one in found), max(one.seeds for one in found)
        seeds = counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
        if self._found.method is Method.COUNTS:
            return
        if self._found.method is Method.SEEDS:
            yield f"± is the {_LEVEL} t interval over {seeds}, paired; over examples {self._found.metric} has no sums."
        else:
            noise = _noise([one.found.has_training_noise for one in found if one.found], most, seeds)
            yield f"± is the {_LEVEL} t interval over {self._found.examples} held-out examples, paired{noise}."
        yield "Worse is what steps of tests over all pairs show (wrongly in at most 5% of sweeps); else a tie."
        if most == len(self._judged) == 2:  # 13% where runs differ by their seed alone (docs/comparison.md)
            yield "Of two trials with two seeds, worse is said wrongly in up to 13%: take three seeds."

    def _bounds(self) -> Iterator[str]:
        """How much worse than the best a trial that ties with it may be."""
        ties = [self._found.of[row.number] for row in self._at(Place.TIE)]
        if not ties or self._found.method is Method.COUNTS:
            return
        sign = -1 if self._found.direction == "maximize" else 1
        most = max(sign * (one.difference or 0) + (one.half_width or 0) for one in ties)
        if self._smallest is not None and all(_is_equal(one, self._smallest) for one in ties):
            yield f"What ties is equal to the best within hydra.sweeper.difference={self._smallest:g}."
        else:
            yield f"A tie is no proof of equality: one of these may still be worse than the best by {most:.2g}."

    def _small(self) -> Iterator[str]:
        """Trials that are worse, but by less than matters."""
        small = [
            row.number
            for row in self._at(Place.WORSE)
            if self._smallest is not None and _is_equal(self._found.of[row.number], self._smallest)
        ]
        if small:
            yield f"Worse, but by less than hydra.sweeper.difference={self._smallest:g}: {trials(sorted(small))}."

    def _contradictions(self) -> Iterator[str]:
        earlier = self._better_earlier()
        if better := [row for row in self._at(Place.BETTER) if row not in earlier]:
            yield (
                f"By the mean over seeds {trials([row.number for row in better])} would be better than the best, which"
                " was chosen by hydra.sweeper.over_seeds or by another metric's mean."
            )

    def _not_compared(self) -> Iterator[str]:
        by_reason: dict[str, list[int]] = {}
        for row in self._at(Place.UNKNOWN):
            by_reason.setdefault(self._found.of[row.number].reason, []).append(row.number)
        for reason, numbers in by_reason.items():
            yield f"Not compared: {trials(sorted(numbers))}. {reason}"
        if unmeasured := [row.number for row in self._rows if self._is_unmeasured(row)]:
            yield f"Not judged: {trials(sorted(unmeasured))}, without a finite {self._found.metric}."
        yield from self._counted_once()
        if unended := [row.number for row in self._rows if row.outcome.status is Status.PRUNED]:
            yield f"Not judged: {trials(sorted(unended))}, pruned before the end of training."

    def _counted_once(self) -> Iterator[str]:
        if self._repeated:
            earlier = trials(sorted(row.number for row in self._repeated))
            yield f"Counted once: {earlier}, whose settings a later stage trained again."

    def _is_unmeasured(self, row: TrialRow) -> bool:
        is_rival = row.outcome.status is Status.COMPLETE and not row.broken
        return is_rival and not math.isfinite(row.outcome.metrics.get(self._found.metric, math.nan))


def _noise(has_noise: Sequence[bool], most: int, seeds: str) -> str:
    """Whether the intervals hold what another seed would change, as the end of a sentence."""
    if all(has_noise):
        return f", and {seeds}"
    if any(has_noise):
        return f", and {seeds}; with one seed training noise is not in it"
    return f"; {'one seed' if most == 1 else seeds}: training noise is not in it"


def _cost(name: str, row: TrialRow) -> str:
    """What a trial costs, in words."""
    value = row.outcome.numbers[name]
    words = {"params/trainable": f"{value:,.0f} trainable parameters", "adapter/bytes": f"{value:,.0f} bytes"}
    return words.get(name, f"{name} {number(value)}")
