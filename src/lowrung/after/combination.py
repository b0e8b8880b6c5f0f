"""`lowrung combine`: one adapter of several, scored beside its parts."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung import atomic, disk
from lowrung.after import named
from lowrung.after.bases import base_for, held_out
from lowrung.after.generation import located
from lowrung.after.named import Named
from lowrung.errors import UsageError
from lowrung.report.tables import table

if TYPE_CHECKING:
    from lowrung.adapters.difference import Row
    from lowrung.adapters.loaded import Loaded
    from lowrung.finetune.model import Base

COMBINED = "combined"


def combine(
    names: Sequence[str],
    to: str,
    weights: Sequence[float] | None,
    *,
    base: str | None,
    method: str,
    rank: int | None,
    density: float | None,
    seed: int,
) -> str:
    """Combines adapters, saves the result with the first one's tokenizer, and scores it as reloaded from the disk.

    Args:
        names: the adapters, by their folders, runs or trials.
        to: a folder that is empty or not there yet.
        weights: one an adapter; None is equal ones with a sum of 1.
        base: where the base is, instead of where the adapters say.
        method: see `lowrung.adapters.combine`, also for rank, density and seed.
        rank: the result's, for methods that end in ``svd``.
        density: the share of numbers that is kept, for methods that prune.
        seed: of what DARE drops.

    Returns:
        where the result is, and the eval loss of the base, the parts and the result on each part's held-out examples.

    Raises:
        UsageError: when they cannot be combined so, or nothing can be written there; nothing is left then.
    """
    folder = Path(to).expanduser().absolute()
    shares = list(weights) if weights is not None else [1 / len(names)] * len(names)
    if problems := _problems(names, shares, folder):
        raise UsageError(problems)
    found = named.adapters(names, Path.cwd())
    from lowrung.adapters.loaded import Loaded
    from lowrung.adapters.ship import check_target

    check_target(folder, sum(path.stat().st_size for one in found for path in one.folder.glob("*.safetensors")))
    loaded = Loaded(_base(found, base))
    for one in found:
        loaded.load(one.name, one.folder)
    loaded.combine(
        COMBINED, dict(zip(names, shares, strict=True)), method=method, rank=rank, density=density, seed=seed
    )
    atomic.make_folder(folder, functools.partial(_save, loaded, found[0]))
    loaded.delete(COMBINED)
    loaded.load(COMBINED, folder)
    return "\n\n".join([f"combined:  {folder}", *_scores(loaded, found)])


def _problems(names: Sequence[str], weights: Sequence[float], folder: Path) -> list[str]:
    problems = disk.unwritable("--to", folder)
    if len(set(names)) < max(len(names), 2) or COMBINED in names:
        problems.append(f"combine needs at least two adapters, each once, but has {', '.join(names)}.")
    if len(weights) != len(names):
        problems.append(f"--weights must be one an adapter, but there are {len(weights)} for {len(names)} adapters.")
    return problems


def _base(found: Sequence[Named], path: str | None) -> "Base":
    """The base that all adapters share."""
    from lowrung.adapters import saved as files

    bases = [located(base_for(one, files.read(one.folder), path)) for one in found]
    if len(set(bases)) > 1:
        listed = ", ".join(f"{one.name} has {_shown(base)}" for one, base in zip(found, bases, strict=True))
        raise UsageError(f"Adapters must share their base, and how it is loaded, to be combined, but {listed}.")
    return bases[0]


def _shown(base: "Base") -> str:
    return f"{base.path} with {', '.join(base.added_tokens)}" if base.added_tokens else base.path


def _save(loaded: "Loaded", first: Named, folder: Path) -> None:
    from lowrung.adapters.answers import Asked, tokenizer_of

    loaded.save(COMBINED, folder)
    tokenizer_of(Asked(loaded.base, first.folder)).save_pretrained(folder)


def _scores(loaded: "Loaded", found: Sequence[Named]) -> list[str]:
    """The eval losses: a row for each adapter and the base, a column for each part whose held-out rows are there."""
    data = {one.name: examples for one in found if one.run and (examples := held_out(one.run))}
    if not data:
        return ["not scored: no adapter has the held-out examples of its run beside it"]
    rows = [[name or "base", *_losses(loaded, name, data)] for name in (None, *loaded.names)]
    title = "eval loss on the data of"
    return [table([title, *data], rows, left=(title,))]


def _losses(loaded: "Loaded", name: str | None, data: "Mapping[str, Sequence[Row]]") -> list[str]:
    from lowrung.adapters.difference import mean_loss

    loaded.switch(name)
    return [f"{mean_loss(loaded.model, rows):.4f}" for rows in data.values()]
