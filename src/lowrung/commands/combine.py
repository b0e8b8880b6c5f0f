"""`lowrung combine`: one adapter of several, scored beside its parts."""

import argparse
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands.arguments import ADAPTER, Commands, add_base
from lowrung.commands.candidates import tracked_run
from lowrung.commands.eval_losses import BASE, Losses, as_metrics, as_table, eval_losses, examples_of
from lowrung.commands.loading import load
from lowrung.commands.names import Named, find_adapters
from lowrung.commands.run_inputs import format_of
from lowrung.errors import InputError, UsageError, blaming
from lowrung.store import atomic, disk
from lowrung.store.outcome import Status
from lowrung.track.base import Point, TrackError

if TYPE_CHECKING:
    from lowrung.adapters.multi_adapter import MultiAdapter
    from lowrung.track.lookup import TrackedRun

ABOUT = (
    "Makes one adapter of several on the same base, and scores it beside its parts on the held-out examples of"
    " their runs. cat and svd add the updates (svd at --rank). The other methods combine the factors A and B, which is"
    " less exact, and need equal ranks."
)

COMBINED = "combined"


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("combine", help="make one adapter of several", description=ABOUT)
    parser.add_argument("adapters", metavar="ADAPTER", nargs="+", help=f"two or more, each {ADAPTER}")
    parser.add_argument("--to", metavar="FOLDER", required=True, help="the new folder: empty, or not there yet")
    parser.add_argument(
        "--method",
        default="svd",
        help="cat, svd, linear, ties, dare_linear, dare_ties or magnitude_prune; the last"
        " four also with _svd at the end, which works on the updates (default: %(default)s)",
    )
    parser.add_argument(
        "--weights", type=float, nargs="+", help="one for each adapter (default: equal, with a sum of 1)"
    )
    parser.add_argument("--rank", type=int, help="the result's rank, with svd (default: the adapters' highest)")
    parser.add_argument(
        "--density", type=float, help="the share of numbers to keep, with ties, dare and magnitude_prune"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the numbers that dare drops (default: %(default)s)")
    add_base(parser)
    parser.set_defaults(command=_run)


@dataclasses.dataclass(frozen=True)
class Combined:
    """An adapter made of several.

    Attributes:
        folder: where it is.
        rank: its rank.
        losses: in nats, of the base (``base``), each part and the result (``combined``), by the name of the part whose
            run has the held-out examples; empty where there are no examples.
        run: its id in MLflow; null where no part was tracked.
        experiment: that run's; null likewise.
        not_tracked: why a result whose parts are tracked is not; null where it is.
    """

    folder: Path
    rank: int
    losses: Losses
    run: str | None = None
    experiment: str | None = None
    not_tracked: str | None = None

    def __str__(self) -> str:
        """Where it is, the losses as a table, and where it is tracked."""
        parts = [f"combined:  {self.folder}", as_table(self.losses)]
        parts += [f"tracked:   run {self.run} of the experiment {self.experiment}"] if self.run else []
        parts += [f"not tracked: {self.not_tracked}"] if self.not_tracked else []
        return "\n\n".join(parts)


def _run(chosen: argparse.Namespace) -> Combined:
    """Combines adapters, saves the result with the first one's tokenizer, and scores it as reloaded from the disk.

    Where a part was tracked, so is the result: as a run in the same experiment.

    Raises:
        UsageError: when they cannot be combined so, or nothing can be written there; nothing is left then.
    """
    names, folder = chosen.adapters, Path(chosen.to).expanduser().absolute()
    weights = chosen.weights or [1 / len(names)] * len(names)
    if problems := _problems(names, weights, folder):
        raise UsageError(problems)
    found = find_adapters(names, Path.cwd())
    from lowrung.adapters.export import check_target

    check_target(folder, sum(path.stat().st_size for one in found for path in one.folder.glob("*.safetensors")))
    examples = examples_of(found)
    adapters = load(found, chosen.base, chosen.trust_remote_code)
    how = {"method": chosen.method, "rank": chosen.rank, "density": chosen.density, "seed": chosen.seed}
    adapters.combine(COMBINED, dict(zip(names, weights, strict=True)), **how)
    atomic.make_folder(folder, functools.partial(_save, adapters, found[0]))
    adapters.delete(COMBINED)
    adapters.load(COMBINED, folder)
    with blaming(f"Scoring {' and '.join(names)}", f"The combined adapter is in {folder}."):
        losses = eval_losses(adapters, examples)
    combined = Combined(folder, adapters.rank(COMBINED), losses)
    params = {
        "parts": ", ".join(names),
        "weights": ", ".join(f"{weight:g}" for weight in weights),
        **{name: str(value) for name, value in how.items() if value is not None},
        "rank": str(combined.rank),
    }
    if not chosen.method.startswith("dare"):
        del params["seed"]  # nothing was drawn
    return _track(found, combined, params)


def _problems(names: Sequence[str], weights: Sequence[float], folder: Path) -> list[str]:
    problems = disk.unwritable("--to", folder)
    if len(set(names)) < max(len(names), 2):
        problems.append(f"combine needs at least two adapters, each once, but has {', '.join(names)}.")
    problems += [
        f"No adapter may be called {name}, since the table of losses has a row of that name. Write ./{name}."
        for name in names
        if name in (BASE, COMBINED)
    ]
    if len(weights) != len(names):
        problems.append(f"--weights must have a number for each of {len(names)} adapters, but has {len(weights)}.")
    return problems


def _save(adapters: "MultiAdapter", first: Named, folder: Path) -> None:
    from lowrung.adapters.vocabulary import ends_of, tokenizer_of

    tokenizer = tokenizer_of(adapters.base, first.folder)
    ends = ends_of(adapters.base, first.folder, format_of(first.run))
    with blaming(f"The combined adapter, or {folder.parent}, where it is saved,"):
        adapters.save(COMBINED, folder)
        tokenizer.save_pretrained(folder)
        ends.write(folder)


def _track(found: Sequence[Named], combined: Combined, params: Mapping[str, str]) -> Combined:
    """Tracks the result beside its parts, where one of them was tracked; says where, or why not."""
    try:
        parts = [part for one in found if one.run and (part := tracked_run(one.run, Path.cwd()))]
        with blaming("The tracker"):
            return _recorded(parts, combined, params) if parts else combined
    except (InputError, TrackError, UsageError) as error:
        return dataclasses.replace(combined, not_tracked=f"the store of the parts does not answer ({error})")


def _recorded(parts: Sequence["TrackedRun"], combined: Combined, params: Mapping[str, str]) -> Combined:
    """Records the result in the store of the first part; says where."""
    from lowrung.config import signature
    from lowrung.track import recording

    first = parts[0]
    tracker = recording.opened(first.uri, first.experiment)
    tags = {
        "lowrung.kind": COMBINED,
        "lowrung.results": str(combined.folder),
        "lowrung.parts": ", ".join(part.run for part in parts),
        "mlflow.source.git.commit": signature.git_commit(),
    }
    run = tracker.start_run(f"{COMBINED} {params['method']}", params=params, tags=tags)
    if combined.losses:
        tracker.log(run, [Point(0, time.time(), as_metrics(combined.losses))])
    tracker.log_artifact(run, combined.folder)
    tracker.end_run(run, Status.COMPLETE)
    return dataclasses.replace(combined, run=run, experiment=first.experiment)
