"""Running trials: a live view below the printed lines on a terminal, plain lines anywhere else."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from lowrung.costs.units import duration
from lowrung.report import screen
from lowrung.report.live import LiveView

SUMMARY_SECONDS = 10.0
"""The least time between two summaries in a log: trials that are answered from the store end many a second."""


@dataclasses.dataclass
class _Running:
    """A trial between start and end.

    Attributes:
        title: names it.
        steps: of its training.
        since: when it was submitted.
        began: when it began, as far as is known.
        waits: why it has not begun; None where it has.
        told: the reasons that a log has.
        step: that it has reached.
        losses: its last metrics.
        is_scored: whether its last evaluation is done.
        planned: the seconds that it takes by the plan; None where it has none.
    """

    title: str
    steps: int
    since: float
    began: float
    waits: str | None = None
    told: set[str] = dataclasses.field(default_factory=set)
    step: int = 0
    losses: Mapping[str, float] = dataclasses.field(default_factory=dict)
    is_scored: bool = False
    planned: float | None = None


class _Console(Console):
    """A terminal, or a log; ``FORCE_COLOR``, which CI sets, makes no terminal of a log."""

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True, force_interactive=screen.can_redraw())

    def on_broken_pipe(self) -> None:
        """Ends the process with the exit code that other commands have then; rich's own is 1, as for a failed trial."""
        self.quiet = True
        screen.leave()


class Progress:
    """Shows running trials and how far the sweep is. Use it as a context manager; printing goes on above the view.

    Args:
        console: where to print; None is the standard output. A live view needs a terminal that can move its cursor.
        clock: seconds from any fixed moment, as `time.monotonic` gives them.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or _Console()
        self._clock = clock
        self._live = LiveView(self, self.console) if self._can_redraw else None
        self._running: dict[str, _Running] = {}
        self._most_at_once = 0
        self._seconds: dict[str, float] = {}
        self._summary = ""
        self._ready_at = -math.inf
        self._logged_at = -math.inf
        self._bases: set[str] = set()

    @property
    def _can_redraw(self) -> bool:
        return self.console.is_interactive and self.console.is_terminal

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._running.clear()  # Live draws once more when it stops, all rows: those above the screen's top would stay
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(
            Text(screen.printable(text))
        )  # as it is: in a str, [q_proj] would be markup and :x: an emoji

    def start(self, key: str, title: str, steps: int, waits: str | None = None, planned: float | None = None) -> None:
        """A trial starts, or waits in a scheduler's queue.

        Args:
            key: names the trial from now on.
            title: the same for people.
            steps: its optimiser steps.
            waits: why it waits; see `waits`.
            planned: the seconds that it takes by the plan.
        """
        now = self._clock()
        self._running[key] = _Running(title, steps, since=now, began=now, waits=waits, planned=planned)
        self._most_at_once = max(self._most_at_once, len(self._running))
        if self._live is None:
            by_plan = f", {duration(planned)} by the plan" if planned else ""
            self.say(f"{title}: {'started' if waits is None else 'submitted'}{by_plan}")

    def waits(self, key: str, reason: str | None) -> None:
        """Why a trial waits in a scheduler's queue, in the scheduler's words; None where it has begun.

        A log gets each reason of a trial once: a scheduler goes to and fro between two of them.
        """
        trial = self._running.get(key)
        if trial is None or trial.waits == reason:
            return
        trial.waits, trial.began = reason, self._clock() if reason is None else trial.began
        said = "started" if reason is None else f"waits in the queue ({reason})"
        if self._live is None and reason != "" and said not in trial.told:
            trial.told.add(said)
            self.say(f"{trial.title}: {said}")

    def update(self, key: str, step: int, metrics: Mapping[str, float]) -> None:
        """A trial reported metrics at a step; what comes after its end is dropped."""
        trial = self._running.get(key)
        if trial is None:
            return
        trial.step = step
        trial.losses = {**trial.losses, **metrics}
        trial.is_scored |= step >= trial.steps and "eval/loss" in metrics
        if self._live is None and "eval/loss" in metrics and self._is_news(trial, metrics):
            losses = ", ".join(filter(None, (_loss("train", metrics), _loss("eval", metrics))))
            self.say(f"{trial.title}: step {step}/{trial.steps}, {losses}")

    def _is_news(self, trial: _Running, metrics: Mapping[str, float]) -> bool:
        """Whether an evaluation is worth a line of a log.

        The last one is said again with the trial's end, and the first one, of the base, is that of other trials too.
        """
        if trial.step == 0:
            base = _loss("eval", metrics)
            is_new = base not in self._bases
            self._bases.add(base)
            return is_new
        return trial.step < trial.steps

    def end(self, key: str, title: str, text: str) -> None:
        """A trial ended, whether it was started or not; ``text`` is its end in words."""
        trial = self._running.pop(key, None)
        if trial is not None:
            self._seconds[key] = self._seconds.get(key, 0.0) + self._clock() - trial.since  # it may be tried again
        self.say(f"{title}: {text}")

    def summary(
        self,
        *,
        total: int,
        complete: int,
        pruned: int,
        failed: int,
        running: int,
        best: str | None,
        runs_left: int | None = None,
        spent: str = "",
        seconds_left: float = math.inf,
        skipped: int = 0,
    ) -> None:
        """Says how far the sweep is, and how long it still takes. Call it after each trial that ended.

        A sweep of one trial has no summary. A log gets one every `SUMMARY_SECONDS` at most, and always the last.

        Args:
            total: trials of the sweep.
            complete: those that ended with a result, reused ones included.
            pruned: those that were pruned.
            failed: those that ended in any other way. All three together are the trials that are done.
            running: runs that have a slot now.
            best: the best result so far, as in ``eval/loss 2.922 (trial 7: lora.r=16)``; None as long as there is none.
            runs_left: runs of the trials that are not done; None is one each.
            spent: of the budget, in words; empty where there is none.
            seconds_left: of runs, until the budget is spent.
            skipped: those that the plan left out; they are done too.
        """
        if total < 2:
            return
        done = complete + pruned + failed + skipped
        parts = [f"{done} of {total} done"]
        parts += [
            f"{count} {end}" for count, end in ((pruned, "pruned"), (failed, "failed"), (skipped, "left out")) if count
        ]
        parts += [spent] * bool(spent)
        parts += [f"best {best}"] if best is not None else []
        self._summary = ", ".join(parts)
        self._most_at_once = max(self._most_at_once, running)
        needed = self._seconds_for(total - done if runs_left is None else runs_left)
        self._ready_at = self._clock() + min(needed, seconds_left) / max(self._most_at_once, 1)
        if self._live is None:
            self._log_summary(is_last=done >= total)

    def _seconds_for(self, runs: int) -> float:
        """What so many runs take together: the mean of those of this start; before the first, by the plan."""
        known = list(self._seconds.values()) or [trial.planned for trial in self._running.values() if trial.planned]
        return statistics.fmean(known) * runs if known else 0.0

    def _log_summary(self, *, is_last: bool) -> None:
        now = self._clock()
        if is_last or now - self._logged_at >= SUMMARY_SECONDS:
            self._logged_at = now
            self.say(self._summary + self._time_left())

    def _time_left(self) -> str:
        """What ends a summary; it goes on counting down until the next one, and says nothing where nothing is known."""
        left = self._ready_at - self._clock()
        return f", {duration(left)} left" if left > 0 else ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The live view: the summary, and as many running trials as the terminal has lines for."""
        if self._summary:
            yield self._summary_line()
        trials = list(self._running.values())  # a copy: rich draws in a thread of its own
        room = max(options.size.height - 1 - bool(self._summary), 1)
        shown = trials if len(trials) <= room else trials[: room - 1]
        if shown:
            yield self._rows(shown, options.max_width)
        if len(shown) < len(trials):
            yield _line(f"and {len(trials) - len(shown)} more")

    def _summary_line(self) -> Table:
        """The summary, cut where room is short, but for the time left."""
        table = Table.grid("", Column(no_wrap=True))
        table.add_row(_line(self._summary), self._time_left())
        return table

    def _rows(self, trials: list[_Running], width: int) -> Table:
        """Running trials, a line each. Where room is short title and bar are cut first; then bar and train loss go."""
        bar_width = 30 if width >= 120 else 10
        columns = [Column(), Column(max_width=bar_width), *(Column(no_wrap=True) for _ in range(4))]
        shown = range(6) if width >= 70 else (0, 2, 4, 5)
        table = Table.grid(*(columns[index] for index in shown), padding=(0, 2, 0, 0))
        for trial in trials:
            cells = self._cells(trial, bar_width)
            table.add_row(*(cells[index] for index in shown))
        return table

    def _cells(self, trial: _Running, bar_width: int) -> list[RenderableType]:
        bar: RenderableType = ProgressBar(total=trial.steps, completed=trial.step, width=bar_width)
        if trial.waits is not None:
            bar = _line(trial.waits)
        return [
            _line(trial.title),
            _line("merged-vs-adapter check") if trial.is_scored else bar,
            f"{trial.step}/{trial.steps}" if trial.waits is None else "waits",
            _loss("train", trial.losses),
            _loss("eval", trial.losses),
            duration(self._clock() - trial.began) + (f" of {duration(trial.planned)}" if trial.planned else ""),
        ]


def _line(text: str) -> Text:
    """Text that is cut where it would break."""
    return Text(screen.printable(text), no_wrap=True, overflow="ellipsis")


def _loss(split: str, metrics: Mapping[str, float]) -> str:
    name = f"{split}/loss"
    return f"{split} loss {metrics[name]:.3f}" if name in metrics else ""
