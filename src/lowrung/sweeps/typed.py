"""What was typed takes precedence over what a preset's stages have."""

import dataclasses
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from lowrung.config import commandline, grammar, repeats
from lowrung.sweeps.stage import Stage


def key_of(text: str) -> str:
    """The key of an override; empty where it cannot be read, which is said elsewhere."""
    override = commandline.parsed(text, OverridesParser.create())
    return "" if override is None else repeats.bare_key(override)


def stages(asked: Sequence[Stage], common: Sequence[str], typed: Sequence[str]) -> list[Stage]:
    """The stages with the command line's overrides in their places; see `lowrung.sweeps.stages.read`.

    Args:
        asked: as they were written.
        common: overrides that the first stage starts from.
        typed: overrides of the command line.
    """
    by_key = {key_of(text): text for text in typed if key_of(text)}
    taken = {
        key
        for key, text in by_key.items()
        if grammar.is_sweep(text) and any(_sweeps(key, space) for stage in asked for space in stage.spaces)
    }
    made = [_with_own(stage, by_key, taken) for stage in asked]
    of_all = [text for text in typed if key_of(text) not in taken]
    first = tuple((*common, *space, *of_all) for space in made[0].spaces)
    return [dataclasses.replace(made[0], spaces=first), *made[1:]]


def _sweeps(key: str, space: Sequence[str]) -> bool:
    return any(key_of(text) == key and grammar.is_sweep(text) for text in space)


def _with_own(stage: Stage, typed: Mapping[str, str], taken: set[str]) -> Stage:
    """A stage with what was typed in the place of its own values, or with these left out where it holds for all."""
    spaces = []
    for space in stage.spaces:
        kept = []
        for text in space:
            key = key_of(text)
            if key not in typed:
                kept.append(text)
            elif key in taken:
                kept.append(typed[key] if grammar.is_sweep(text) else text)
        spaces.append(tuple(kept))
    return dataclasses.replace(stage, spaces=tuple(spaces))
