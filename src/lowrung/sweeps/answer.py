"""A sweep's answer: its verdict, as it is printed, written beside the leaderboard, and noted in the tracker."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lowrung.config.schema import Config
from lowrung.finetune.found import Preflight
from lowrung.report import leaderboard, questions
from lowrung.report.leaderboard import TrialRow
from lowrung.report.questions import Recipe
from lowrung.store import atomic
from lowrung.store.layout import StudyFolder
from lowrung.sweeps import preflight
from lowrung.sweeps.settings import Settings

if TYPE_CHECKING:
    from lowrung.report.verdict import Verdict
    from lowrung.search.axes import Interval

NOTE_LENGTH = 8000
"""Characters that MLflow keeps of a run's description."""

ANSWER, TIES, NOTE = "lowrung.verdict", "lowrung.ties", "mlflow.note.content"
"""Tags of the sweep's run; MLflow shows the last one as the run's description, in Markdown."""


def recipe(config: Config, seen: Preflight) -> Recipe:
    """What of a run's config decides whether it can be compared fairly."""
    return Recipe.of(config, next(split.rows for split in seen.splits if split.context == "training"))


def badly_put(configs: Sequence[Config], seen: Mapping[str, Preflight]) -> list[str]:
    """What the settings show before anything runs: ranks or variants at one rate, trials of different budgets.

    Args:
        configs: the grid's, with each interval at its low and at its high end.
        seen: what the preflight found, by `preflight.key`.
    """
    known = [(config, seen.get(preflight.key(config))) for config in configs]
    return questions.unfair([recipe(config, found) for config, found in known if found is not None])


@dataclasses.dataclass(frozen=True)
class Answer:
    """The leaderboard of a sweep and what it says.

    Attributes:
        rows: all trials, best first.
        objectives: metrics and their directions.
        verdict: on them.
    """

    rows: Sequence[TrialRow]
    objectives: Mapping[str, str]
    verdict: "Verdict"

    @classmethod
    def of(
        cls,
        rows: Sequence[TrialRow],
        settings: Settings,
        recipes: Mapping[int, Recipe],
        intervals: Sequence["Interval"],
        not_as_asked: Sequence[str],
        *,
        is_over: bool = True,
    ) -> "Answer":
        """Judges the trials of a sweep that has ended.

        Args:
            rows: all trials, best first.
            settings: the sweep's.
            recipes: of the trials, by number.
            intervals: that were searched.
            not_as_asked: which trials were not run, or with other settings than were asked for, in words.
            is_over: whether all trials were run that were asked for.
        """
        from lowrung.report import verdict  # imports scipy (0.3 s)

        searched = {axis.key: (axis.low, axis.high, axis.log) for axis in intervals}
        found = verdict.make(
            rows,
            settings.objectives,
            prefer=settings.prefer,
            smallest=settings.difference,
            recipes=recipes,
            intervals=searched,
            is_over=is_over,
        )
        found = dataclasses.replace(found, warnings=[*not_as_asked, *found.warnings])
        return cls(rows, settings.objectives, found)

    def write(
        self, folder: StudyFolder, spent: Mapping[str, float], spent_by_trial: Mapping[int, Mapping[str, float]]
    ) -> None:
        """Leaves the leaderboard and the verdict as JSON.

        Args:
            folder: the study's.
            spent: of its budget, by name; see `lowrung.sweeps.spending`. That of trials that were run again, which
                the leaderboard does not show, is among it.
            spent_by_trial: the same by the trials' numbers.
        """
        trials = self.verdict.record["trials"]
        against = {int(number): standing for number, standing in trials.items()}
        leaderboard.write(folder.leaderboard, self.rows, self.objectives, against, spent_by_trial)
        atomic.write_json(folder.verdict, {**self.verdict.record, **({"spent": spent} if spent else {})})

    @property
    def tags(self) -> dict[str, str]:
        """For the sweep's run in the tracker."""
        ties = ",".join(map(str, self.verdict.standings.ties))
        return {ANSWER: self.verdict.sentences[0], TIES: ties, NOTE: self._markdown()}

    def _markdown(self) -> str:
        """The verdict and the table; as many rows as there is room for."""
        answer, *rest = self.verdict.sentences
        said = [f"**{answer}**", *(f"- {text}" for text in (*rest, *(f"warning: {w}" for w in self.verdict.warnings)))]
        head, cells = leaderboard.columns(self.rows, self.objectives, self.verdict.cells)
        lines = [_row(head), _row(["---"] * len(head))]
        room = NOTE_LENGTH - len("\n".join(said)) - 100
        for count, row in enumerate(map(_row, cells)):
            if len("\n".join([*lines, row])) > room:
                lines.append(f"\n{len(cells) - count} more trials: leaderboard.json")
                break
            lines.append(row)
        return "\n".join([said[0], "", *said[1:], "", *lines])[:NOTE_LENGTH]

    def __str__(self) -> str:
        """As it is printed."""
        return f"{leaderboard.render(self.rows, self.objectives, self.verdict.cells)}\n\n{self.verdict}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
