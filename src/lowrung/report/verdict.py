"""What a leaderboard says: which trials tie, which one to take, and what the data do not allow to say."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lowrung.comparison.standings import Standing, Standings, standings
from lowrung.report import doubts, questions, screen
from lowrung.report.leaderboard import TrialRow, ranked
from lowrung.report.questions import Recipe
from lowrung.report.sentences import Sentences, cell

WIDTH = 100
"""Columns that a line of the verdict takes at most."""

PREFER = ("params/trainable",)
"""What decides between trials that tie, unless ``hydra.sweeper.prefer`` says otherwise: the fewest."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A sweep's answer.

    Attributes:
        standings: where each trial stands against the best; see `lowrung.comparison.standings`.
        preferred: the number of the trial to take: the cheapest of those that tie with the best, or the best itself.
            None where no trial is complete and keeps to the constraints.
        sentences: the answer, and what is to be known of it; the first one is the answer.
        warnings: where the question is badly put.
    """

    standings: Standings
    preferred: int | None
    sentences: Sequence[str]
    warnings: Sequence[str] = ()

    def __str__(self) -> str:
        """In lines of `WIDTH` columns, or as many as the terminal has."""
        return text(self.sentences, self.warnings)

    @property
    def cells(self) -> dict[int, str]:
        """The column ``against the best`` by the trials' numbers; empty where there is nobody to compare."""
        of = self.standings.of
        return {trial: cell(one) for trial, one in of.items()} if len(of) > 1 else {}

    @property
    def record(self) -> dict[str, Any]:
        """As JSON."""
        found = self.standings
        return {
            "verdict": self.sentences[0],
            "sentences": list(self.sentences),
            "warnings": list(self.warnings),
            "metric": found.metric,
            "direction": found.direction,
            "compared_by": found.compared_by,
            "method": found.method,
            "examples": found.examples,
            "best": found.best,
            "ties": found.ties,
            "preferred": self.preferred,
            "trials": {str(trial): _record(one) for trial, one in found.of.items()},
        }


def make(
    rows: Sequence[TrialRow],
    objectives: Mapping[str, str],
    *,
    prefer: Sequence[str] = PREFER,
    smallest: float | None = None,
    recipes: Mapping[int, Recipe] = MappingProxyType({}),
    intervals: Mapping[str, tuple[float, float, bool]] = MappingProxyType({}),
    is_over: bool = True,
) -> Verdict:
    """Compares the trials of a sweep that have ended.

    Args:
        rows: all trials.
        objectives: metrics and their directions; the first one counts.
        prefer: metrics or measurements that decide between trials that tie: the smallest value wins, and the next one
            decides between equals.
        smallest: the smallest difference that matters; None does not ask.
        recipes: how the trials were trained, by number.
        intervals: what was searched, by key: low, high, and whether by orders of magnitude.
        is_over: whether all trials have ended that were asked for.
    """
    found = standings(rows, objectives)
    judged = [row for row in ranked(rows, objectives) if row.number in found.of]
    words = Sentences(found, rows, judged, prefer, smallest)
    if not judged:
        return Verdict(found, None, [words.answer()])
    ties = [row for row in judged if row.number in found.ties]
    warnings = [
        *doubts.edges(rows, ties, intervals, is_over=is_over),
        *questions.unfair([recipes[row.number] for row in judged if row.number in recipes]),
        *doubts.too_wide(found, smallest),
        *doubts.below_noise(found),
    ]
    return Verdict(found, words.preferred.number, [words.answer(), *words.notes(objectives)], warnings)


def text(sentences: Sequence[str], warnings: Sequence[str]) -> str:
    """What a verdict says, in lines of `WIDTH` columns, or as many as the terminal has."""
    answer, *rest = sentences
    heads = [f"verdict: {answer}", *(f"  {sentence}" for sentence in rest), *(f"warning: {one}" for one in warnings)]
    return "\n".join(_wrapped(head, "  ") for head in heads)


def _record(standing: Standing) -> dict[str, Any]:
    names = ("place", "difference", "half_width", "p_value", "seeds", "noise", "reason")
    return {name: getattr(standing, name) for name in names}


def _wrapped(text: str, indent: str) -> str:
    """A text in lines; a difference stays in one."""
    width = min(WIDTH, screen.width() or WIDTH)
    whole = text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    lines = textwrap.fill(whole, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")
