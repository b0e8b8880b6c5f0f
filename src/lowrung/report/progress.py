"""Running trials: a progress bar each on a terminal, plain lines anywhere else."""

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """Shows running trials. Use it as a context manager; printing goes on above the bars."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[scores]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._titles: dict[str, str] = {}
        self._totals: dict[str, int] = {}

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, markup=False)

    def start(self, key: str, title: str, steps: int) -> None:
        """A trial of so many optimiser steps starts."""
        self._titles[key], self._totals[key] = title, steps
        if self.console.is_terminal:
            self._tasks[key] = self._bars.add_task(title, total=steps, scores="")
        else:
            self.say(f"{title}: started")

    def update(self, key: str, step: int, metrics: Mapping[str, float]) -> None:
        """A trial reported metrics at a step."""
        if key in self._tasks:
            is_last = step >= self._totals[key] and "eval/loss" in metrics
            scores = _scores(metrics) + (", then the merged-vs-adapter check" if is_last else "")
            self._bars.update(self._tasks[key], completed=step, scores=scores)
        elif "eval/loss" in metrics:  # plain lines: one an evaluation, not one a step
            self.say(f"{self._titles[key]}: step {step}/{self._totals[key]}, {_scores(metrics)}")

    def end(self, key: str, title: str, text: str) -> None:
        """A trial ended, whether it was started or not; ``text`` says how."""
        if key in self._tasks:
            self._bars.remove_task(self._tasks.pop(key))
        self.say(f"{title}: {text}")


def _scores(metrics: Mapping[str, float]) -> str:
    names = {"train/loss": "train loss", "eval/loss": "eval loss"}
    return ", ".join(f"{shown} {metrics[name]:.3f}" for name, shown in names.items() if name in metrics)
