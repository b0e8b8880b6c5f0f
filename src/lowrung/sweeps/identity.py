"""What a study is: the resolved configs of its runs, what they read and what they run with, and what is searched."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from lowrung.config import grammar, schema, signature, source
from lowrung.config.schema import Config
from lowrung.finetune.found import Preflight
from lowrung.sweeps.searched import Search
from lowrung.sweeps.settings import Settings
from lowrung.version import __version__

Purpose = dict[str, dict[str, str]]
"""Texts by kind and name. Two studies are the same where all of them are equal."""


OVER_SEEDS = "hydra.sweeper.over_seeds"


def purpose(configs: Sequence[Config], preflights: Iterable[Preflight], search: Search, settings: Settings) -> Purpose:
    """What the trials of a study share, so that their results can be compared. Paths and the tracker do not count.

    Args:
        configs: of all points and seeds, intervals at both of their ends.
        preflights: what was found of their models and data, whose content counts rather than where it lies.
        search: what is searched.
        settings: the fields of ``hydra.sweeper``: the goal, and what a trial's value is over its seeds.
    """
    goal = {**settings.goal, **({"over seeds": {OVER_SEEDS: settings.over_seeds}} if search.seeds > 1 else {})}
    found = list(preflights)
    flat = [grammar.flat(signature.determining(config)) for config in configs]
    same = _same(flat)
    return {
        **search.described(),
        **{kind: {name: str(text) for name, text in (parts or {}).items()} for kind, parts in goal.items()},
        "settings": {name: text for name, text in same.items() if name not in search.keys},
        "points": {"what follows from the point": schema.digest(sorted({schema.digest(one) for one in flat}))},
        "content": {
            "model": schema.digest(sorted({one.model_fingerprint for one in found})),
            "data": schema.digest(sorted({one.data_fingerprint for one in found})),
        },
        "made with": {
            "lowrung": f"{__version__} ({source.digest()[:8]})",
            "device": signature.device_kind(),
            **signature.versions(signature.PACKAGES),
        },
    }


def inputs(configs: Sequence[Config]) -> dict[str, str]:
    """Where a study's models and data are from, as far as all points share it: it explains a changed content."""
    return _same(
        [grammar.flat({"model": config.model.__dict__, "data": dataclasses.asdict(config.data)}) for config in configs]
    )


def digest(purpose: Purpose, settings: Settings) -> str:
    """Names a study that has no name of its own: equal for equal purposes that are searched in the same way."""
    begins = [what for what in (settings.first, settings.warm_start) if what]
    return schema.digest([purpose, settings.sampler, settings.pruner, *begins])[:6]


def _same(flat: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What is equal in all of them."""
    return {name: text for name, text in flat[0].items() if all(one.get(name) == text for one in flat[1:])}
