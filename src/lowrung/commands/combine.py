"""`lowrung combine`: one adapter of several, scored beside its parts."""

import argparse
import dataclasses
import functools
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands.arguments import ADAPTER, Commands, add_base
from lowrung.commands.generate import located
from lowrung.commands.names import Named, find_adapters
from lowrung.commands.run_inputs import base_for, held_out
from lowrung.commands.studies import record_of
from lowrung.errors import UsageError
from lowrung.report.tables import table
from lowrung.store import atomic, disk
from lowrung.store.outcome import Status
from lowrung.track.base import Point, TrackError

if TYPE_CHECKING:
    from lowrung.adapters.multi_adapter import MultiAdapter
    from lowrung.config.schema import ModelConf
    from lowrung.finetune.models.score import Row

ABOUT = (
    "Makes one adapter of several on the same base, and scores it beside its parts on the held-out examples of"
    " their runs. cat and svd add the updates (svd at --rank); the others work on the factors, are rough, and need"
    " equal ranks."
)

BASE, COMBINED = "base", "combined"

Losses = Mapping[str, Mapping[str, float]]
"""Eval losses in nats: of whom, on the held-out examples of which part's run; parts of the same data share one."""


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("combine", help="make one adapter of several", description=ABOUT)
    parser.add_argument("adapters", metavar="ADAPTER", nargs="+", help=f"two or more, each {ADAPTER}")
    parser.add_argument("--to", metavar="FOLDER", required=True, help="where to: empty, or not there yet")
    parser.add_argument(
        "--method",
        default="svd",
        help="cat, svd, linear, ties, dare_linear, dare_ties or magnitude_prune, the last"
        " five also with _svd at the end, which works on the updates (default: %(default)s)",
    )
    parser.add_argument("--weights", type=float, nargs="+", help="one an adapter (default: equal, with a sum of 1)")
    parser.add_argument("--rank", type=int, help="of the result, with svd (default: the highest of the adapters')")
    parser.add_argument("--density", type=float, help="share of numbers to keep, with ties, dare and magnitude_prune")
    parser.add_argument("--seed", type=int, default=0, help="of what dare drops (default: %(default)s)")
    add_base(parser)
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> None:
    options = {"method": chosen.method, "rank": chosen.rank, "density": chosen.density, "seed": chosen.seed}
    options["trust_remote_code"] = chosen.trust_remote_code
    print(combine(chosen.adapters, chosen.to, chosen.weights, base=chosen.base, **options))


def combine(
    names: Sequence[str],
    to: str,
    weights: Sequence[float] | None,
    *,
    base: str | None,
    trust_remote_code: bool = False,
    method: str,
    rank: int | None,
    density: float | None,
    seed: int,
) -> str:
    """Combines adapters, saves the result with the first one's tokenizer, and scores it as reloaded from the disk.

    Where a part was tracked, so is the result: as a run in the same experiment.

    Args:
        names: the adapters, by their folders, runs or trials.
        to: a folder that is empty or not there yet.
        weights: one an adapter; None is equal ones with a sum of 1.
        base: where the base is, instead of where the adapters say.
        trust_remote_code: run Python code that comes with the base.
        method: see `lowrung.adapters.combine`, also for rank, density and seed.
        rank: the result's, for methods that end in ``svd``.
        density: the share of numbers that is kept, for methods that prune.
        seed: of what DARE drops.

    Returns:
        where the result is, the eval loss of the base, the parts and the result on each part's held-out examples, and
        the tracker's id of the result, if any.

    Raises:
        UsageError: when they cannot be combined so, or nothing can be written there; nothing is left then.
    """
    folder = Path(to).expanduser().absolute()
    shares = list(weights) if weights is not None else [1 / len(names)] * len(names)
    if problems := _problems(names, shares, folder):
        raise UsageError(problems)
    found = find_adapters(names, Path.cwd())
    from lowrung.adapters.export import check_target
    from lowrung.adapters.multi_adapter import MultiAdapter

    check_target(folder, sum(path.stat().st_size for one in found for path in one.folder.glob("*.safetensors")))
    loaded = MultiAdapter(_base(found, base, trust_remote_code))
    for one in found:
        loaded.load(one.name, one.folder)
    loaded.combine(
        COMBINED, dict(zip(names, shares, strict=True)), method=method, rank=rank, density=density, seed=seed
    )
    atomic.make_folder(folder, functools.partial(_save, loaded, found[0]))
    loaded.delete(COMBINED)
    loaded.load(COMBINED, folder)
    losses = _losses(loaded, found)
    facts = {
        "parts": ", ".join(names),
        "weights": ", ".join(f"{share:g}" for share in shares),
        "method": method,
        "rank": loaded.rank(COMBINED),
        "density": density,
        "seed": seed if method.startswith("dare") else None,
    }
    params = {name: str(value) for name, value in facts.items() if value is not None}
    return "\n\n".join([f"combined:  {folder}", _table(losses), *_track(found, folder, params, losses)])


def _problems(names: Sequence[str], weights: Sequence[float], folder: Path) -> list[str]:
    problems = disk.unwritable("--to", folder)
    if len(set(names)) < max(len(names), 2):
        problems.append(f"combine needs at least two adapters, each once, but has {', '.join(names)}.")
    problems += [
        f"{name} must be called otherwise, since the table of losses has a row of that name. Say ./{name}."
        for name in names
        if name in (BASE, COMBINED)
    ]
    if len(weights) != len(names):
        problems.append(f"--weights must be one an adapter, but there are {len(weights)} for {len(names)} adapters.")
    return problems


def _base(found: Sequence[Named], path: str | None, trust_remote_code: bool) -> "ModelConf":
    """The base that all adapters share."""
    from lowrung.adapters import files

    bases = [located(base_for(one, files.read(one.folder), path, trust_remote_code=trust_remote_code)) for one in found]
    if len(set(bases)) > 1:
        listed = ", ".join(f"{one.name} has {_shown(base)}" for one, base in zip(found, bases, strict=True))
        if len({dataclasses.replace(base, added_tokens=[]) for base in bases}) == 1:
            raise UsageError(
                "Adapters must add the same tokens in the same order to be combined, since a token's rows are found by"
                f" its number, but {listed}. Train them with the same model.added_tokens."
            )
        raise UsageError(f"Adapters must share their base, and how it is loaded, to be combined, but {listed}.")
    return bases[0]


def _shown(base: "ModelConf") -> str:
    """A base's folder and what it is loaded with, where that is not the default."""
    settings = {
        "added tokens": ", ".join(base.added_tokens),
        "quantization": base.quantization if base.quantization != "none" else "",
        "dtype": base.dtype if base.dtype != "auto" else "",
    }
    return "; ".join([base.path, *(f"{name} {value}" for name, value in settings.items() if value)])


def _save(loaded: "MultiAdapter", first: Named, folder: Path) -> None:
    from lowrung.adapters.answers import Asked, tokenizer_of

    loaded.save(COMBINED, folder)
    tokenizer_of(Asked(loaded.base, first.folder)).save_pretrained(folder)


def _losses(loaded: "MultiAdapter", found: Sequence[Named]) -> Losses:
    """Of the base and each adapter, on the data of each part whose held-out rows are there."""
    from lowrung.finetune.gate.difference import mean_loss

    data: dict[str, Sequence[Row]] = {}
    for one in found:
        rows = held_out(one.run) if one.run else ()
        if rows and not any(rows == known for known in data.values()):
            data[one.name] = rows
    losses = {}
    for name in (None, *loaded.names) if data else ():
        loaded.switch(name)
        losses[name or BASE] = {whose: mean_loss(loaded.model, rows) for whose, rows in data.items()}
    return losses


def _table(losses: Losses) -> str:
    if not losses:
        return "not scored: no adapter has the held-out examples of its run beside it"
    title = "eval loss on the data of" if len(losses[BASE]) > 1 else ""
    head = list(losses[BASE]) if title else ["eval loss"]
    rows = [[who, *(f"{loss:.4f}" for loss in on.values())] for who, on in losses.items()]
    return table([title, *head], rows, left=(title,))


# -- in the tracker ----------------------------------------------------------------------------------------------------


def _track(found: Sequence[Named], folder: Path, facts: Mapping[str, str], losses: Losses) -> list[str]:
    """Records the result beside its parts, where one of them was tracked; says where, or why not."""
    try:
        records = [record for one in found if one.run and (record := record_of(one.run, Path.cwd()))]
    except (TrackError, UsageError) as error:
        return [f"not tracked: the store of the parts does not answer ({error})"]
    if not records:
        return []
    from lowrung.config import signature
    from lowrung.track import recording

    first = records[0]
    tracker = recording.open_tracker(first.uri, first.experiment)
    tags = {
        "lowrung.kind": COMBINED,
        "lowrung.results": str(folder),
        "lowrung.parts": ", ".join(record.run for record in records),
        "mlflow.source.git.commit": signature.git_commit(),
    }
    run = tracker.start_run(f"{COMBINED} {facts['method']}", params=facts, tags=tags)
    if losses:
        tracker.log(run, [Point(0, time.time(), metrics(losses))])
    tracker.log_artifact(run, folder)
    tracker.end_run(run, Status.COMPLETE)
    return [f"tracked:   run {run} of the experiment {first.experiment}"] if run else []


def metrics(losses: Losses) -> dict[str, float]:
    """Losses by names that MLflow takes, a slash in a name being a dot.

    ``eval/loss/<whose>``, with ``/on/<the data's part>`` where the parts have different data.
    """
    words = _words(losses)
    is_one = len(losses[BASE]) == 1
    return {
        f"eval/loss/{words[who]}" + ("" if is_one else f"/on/{words[whose]}"): loss
        for who, on in losses.items()
        for whose, loss in on.items()
    }


def _words(names: Iterable[str]) -> dict[str, str]:
    """Each name in letters that MLflow takes, told apart by numbers where two become the same."""
    words = {name: re.sub(r"[^\w.-]+", "_", name.strip("/").replace("/", ".")) for name in names}
    same = [word for word, count in Counter(words.values()).items() if count > 1]
    return {name: f"{n}_{word}" if word in same else word for n, (name, word) in enumerate(words.items())}
