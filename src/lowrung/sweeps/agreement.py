"""What all runs of a sweep must have in common, whatever they are swept over."""

import dataclasses
from collections.abc import Iterator, Sequence

from lowrung.config import grammar
from lowrung.config.schema import Config
from lowrung.sweeps.points import GridPoint

SHARED = {
    "study": "it names the sweep",
    "store": "results are shared and compared in it",
    "track.kind": "it records the sweep as a whole",
    "track.uri": "it records the sweep as a whole",
    "track.experiment": "the sweep is recorded in it as a whole",
}
"""Settings of a whole sweep, and why."""


NO_NUMBER = 9_182_736_455_463
"""Stands for a trial's number while the grid is composed: a setting that has it in its value follows from it. Seeds end
at 2^32."""


def problems(points: Sequence[GridPoint]) -> Iterator[str]:
    """Settings of a whole sweep that differ between its runs, and models or data that follow a searched value.

    By values: a setting may follow another one by an interpolation, or a group's choice.

    Args:
        points: of the whole grid.
    """
    configs = [config for point in points for config in (*point.configs, point.at_high_ends)]
    values = {key: [_value(config, key) for config in configs] for key in SHARED}
    values["hydra.sweep.dir"] = [folder for point in points for folder in point.folders]
    for key, found in values.items():
        distinct = list(dict.fromkeys(found))
        if len(distinct) > 1:
            yield (
                f"{key} must be the same for all trials of a sweep, since {SHARED.get(key, 'it holds the study')}, but"
                f" is {' and '.join(map(grammar.quote, distinct[:2]))} for two of them. Give it one value, or run a"
                " sweep for each."
            )
    yield from _numbered(configs)
    searched = ", ".join(dict.fromkeys(axis.key for point in points for axis in point.space.intervals))
    for group in ("model", "data"):
        if any(getattr(point.config, group) != getattr(point.at_high_ends, group) for point in points):
            yield (
                f"{group} must not follow from an interval, but what is read differs between the ends of {searched}."
                " Models and data are checked before the first run, so every value must be known: give a list of"
                " values instead."
            )


def _numbered(configs: Sequence[Config]) -> Iterator[str]:
    """Settings that follow from a trial's number, or from its folder."""
    number = str(NO_NUMBER)
    for config in configs:
        if number in repr(config):
            for key, text in grammar.flat(dataclasses.asdict(config)).items():
                if number in text:
                    yield (
                        f"{key} must not follow from a trial's number or folder, but is"
                        f" {text.replace(number, 'NUMBER')}: the same command must give the same runs. Give a list of"
                        " values."
                    )


def _value(config: Config, key: str) -> str | None:
    group, _, name = key.rpartition(".")
    value: str | None = getattr(getattr(config, group) if group else config, name)
    return value
