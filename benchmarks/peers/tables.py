"""The benchmark's tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers.shares import PARTS
from benchmarks.peers.task import Task
from benchmarks.peers.ways import Way

WIDTH = 120
"""Of the tables of what was measured, also where the terminal is narrower."""

QUIET = 0.5
"""Processes that want to run on a machine that does nothing else."""


def show_task(task: Task, ways: Sequence[Way]) -> None:
    """Prints what is equal for all ways, and what is not."""
    equal = Table("setting", "value", title="equal for all ways")
    for name, value in vars(task).items():
        equal.add_row(name.replace("_", " "), str(value))
    console = Console()
    console.print(equal)
    other = Table("setting", *(way.name for way in ways), title="not equal")
    for setting in ways[0].settings:
        other.add_row(setting, *(way.settings[setting] for way in ways))
    console.print(other)


def show(record: Mapping[str, Any]) -> None:
    """Prints what was measured."""
    console = Console(width=max(WIDTH, Console().width))
    console.print(_ways(record), _parts(record))
    if record["steps"]:
        console.print(_steps(record["steps"]))
    if (load := record["about"]["load_at_start"]) > QUIET:
        console.print(
            f"the machine did other work at the start (load {load}): trust CPU times, and no wall-clock times"
        )
    for problem in record["disagreements"]:
        console.print(f"[red]not the same work:[/red] {problem}", soft_wrap=True)
    if not record["disagreements"]:
        console.print(f"all losses of all steps agree with lowrung's within {record['largest_difference']:.1g}")


def _ways(record: Mapping[str, Any]) -> Table:
    columns = ("wall s/trial", "CPU s/trial", "tokens/s", "peak MB", "lowrung's wall", "lowrung's CPU")
    table = Table("way", *columns, title="a trial (medians), and lowrung's share of it (median, least and most)")
    for name, way in record["ways"].items():
        peak = way["peak_bytes"] or way["peak_bytes_of_a_process"]
        numbers = [f"{way[key]:.1f}" for key in ("wall_seconds_per_trial", "cpu_seconds_per_trial")]
        numbers += [f"{way['tokens_per_second']:.1f}", f"{peak / 1e6:,.0f}"]
        ratios = record["ratios"].get(name)
        table.add_row(name, *numbers, *(_spread(ratios[kind]) if ratios else "" for kind in ("wall", "cpu")))
    return table


def _parts(record: Mapping[str, Any]) -> Table:
    table = Table("part", "wall s", "share", "CPU s", "share", "what it is", title="where lowrung's time goes")
    kinds = [parts for parts in (record["parts"]["wall"], record["parts"]["cpu"]) if parts]
    totals = [sum(parts.values()) for parts in kinds]
    for name, what in PARTS.items():
        seconds = [(parts[name], parts[name] / total) for parts, total in zip(kinds, totals, strict=True)]
        shown = [text for taken, share in seconds for text in (f"{taken:.1f}", f"{share:.0%}")]
        table.add_row(name, *shown, *[""] * (4 - len(shown)), what)
    table.add_row(
        "  tokenising", "", "", f"{record['tokenising_cpu_seconds']:.1f}", "", "a part of start, measured alone"
    )
    return table


def _steps(steps: Mapping[str, Any]) -> Table:
    title = (
        f"a step: {steps['tokens_a_step']:.0f} tokens, {steps['labelled']:.0%} of them labelled, and"
        f" {steps['padding']:.0%} of the padded batch is padding; {steps['threads']} threads"
    )
    table = Table("trainer", "CPU s/step", "tokens/CPU s", "lowrung's share", title=title)
    for name, seconds in steps["cpu_seconds"].items():
        ratios = steps["ratios"].get(name)
        speed = f"{steps['tokens_a_step'] / seconds:.0f}"
        table.add_row(name, f"{seconds:.3g}", speed, _spread(ratios) if ratios else "")
    return table


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
