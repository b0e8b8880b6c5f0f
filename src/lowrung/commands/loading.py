"""Adapters that were named, loaded beside each other on the base that they share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands.names import Named, find_adapters
from lowrung.commands.run_inputs import base_for, located
from lowrung.errors import UsageError, blaming

if TYPE_CHECKING:
    from lowrung.adapters.multi_adapter import MultiAdapter
    from lowrung.config.schema import ModelConf


def load_adapters(*adapters: str | Path, base: str | None = None, trust_remote_code: bool = False) -> "MultiAdapter":
    """Loads adapters beside each other on the base that they share, which is loaded once.

    No adapter is active at first. The names of the adapters are as they were given here.

    Example:
        >>> adapters = lowrung.load_adapters("my-sweep/0", "my-sweep/1")
        >>> adapters.names
        ('my-sweep/0', 'my-sweep/1')
        >>> adapters.switch("my-sweep/0")
        >>> adapters.combine("both", {"my-sweep/0": 0.5, "my-sweep/1": 0.5})
        >>> adapters.save("both", "both")

    Args:
        adapters: each an adapter's folder, its run (``runs/<signature>``, its signature, or MLflow's id), or its trial
            (``<study>/<n>``); relative to the current folder.
        base: where the base is: a folder, a hub id or ``embedded:NAME``; None is where the adapters say.
        trust_remote_code: run Python code that comes with the base.

    Raises:
        UsageError: when no adapter is named, one cannot be found or read, or they are of different bases.
    """
    if not adapters:
        raise UsageError("load_adapters needs at least one adapter, but has none. Name one.")
    return load(find_adapters([str(adapter) for adapter in adapters], Path.cwd()), base, trust_remote_code)


def load(found: Sequence[Named], base: str | None, trust_remote_code: bool) -> "MultiAdapter":
    """Loads adapters that were found; see `load_adapters`."""
    from lowrung.adapters.multi_adapter import MultiAdapter

    adapters = MultiAdapter(_shared_base(found, base, trust_remote_code))
    for one in found:
        adapters.load(one.name, one.folder)
    return adapters


def _shared_base(found: Sequence[Named], path: str | None, trust_remote_code: bool) -> "ModelConf":
    from lowrung.adapters import files

    bases = []
    for one in found:
        with blaming(one.name):
            trained_on = base_for(one, files.read(one.folder), path, trust_remote_code=trust_remote_code)
            bases.append(located(trained_on))
    if len(set(bases)) > 1:
        listed = ", ".join(f"{one.name} has {_shown(base)}" for one, base in zip(found, bases, strict=True))
        if len({dataclasses.replace(base, added_tokens=[]) for base in bases}) == 1:
            raise UsageError(
                "Adapters must add the same tokens in the same order to share their base, since a token's rows are"
                f" found by its id, but {listed}. Train them with the same model.added_tokens."
            )
        raise UsageError(
            f"Adapters must share their base, and how it is loaded, but {listed}. Leave out those that differ."
        )
    return bases[0]


def _shown(base: "ModelConf") -> str:
    """A base's folder, and the settings with which it is loaded where they are not the defaults."""
    settings = {
        "added tokens": ", ".join(base.added_tokens),
        "quantization": base.quantization if base.quantization != "none" else "",
        "dtype": base.dtype if base.dtype != "auto" else "",
    }
    return "; ".join([base.path, *(f"{name} {value}" for name, value in settings.items() if value)])
