"""`lowrung reproduce`: a recorded run is made again, and it is said whether the numbers agree to the bit."""

import argparse
import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands.arguments import ADAPTER, Commands, add_trust
from lowrung.commands.names import find_runs
from lowrung.errors import LowrungError, UsageError
from lowrung.report.tables import counted, table
from lowrung.store import disk

if TYPE_CHECKING:
    from lowrung.reproduction.agreement import Difference, Part
    from lowrung.reproduction.circumstances import Change
    from lowrung.reproduction.recorded import Recorded

ABOUT = (
    "Trains a run again from its recorded config, with the recorded number of threads, in a store of its own, and"
    " compares every metric, the learning curve, the scores of each held-out example and what was trained. What differs"
    " in versions, code or machine is listed first. The recorded run is only read, and nothing is tracked. Exit code 0"
    " where all agrees to the bit, 1 where something differs, 2 where the run cannot be made again."
)


class Disagreement(LowrungError):  # noqa: N818  (it names a finding; exit code 1)
    """A run that was made again has other results."""


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "reproduce", help="train a run again, and say whether the numbers agree to the bit", description=ABOUT
    )
    parser.add_argument("run", metavar="RUN", help=ADAPTER)
    parser.add_argument(
        "--keep", metavar="FOLDER", type=Path, help="a new or empty folder in which the new run is kept (default: none)"
    )
    add_trust(parser)
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> None:
    reproduce(chosen.run, chosen.keep, trust_remote_code=chosen.trust_remote_code)


def reproduce(name: str, keep: Path | None = None, *, trust_remote_code: bool = False) -> None:
    """Makes a run again and prints what agrees and what does not.

    Args:
        name: a run, a trial, an adapter of a run, or MLflow's id.
        keep: a new or empty folder, the store in which the new run is kept; None keeps nothing.
        trust_remote_code: run Python code that comes with the base.

    Raises:
        UsageError: when the run cannot be made again.
        StoreError: when its records cannot be used.
        Disagreement: when the results are not the same to the bit.
    """
    from lowrung.reproduction import again, agreement, circumstances, recorded

    (run,) = find_runs([name], Path.cwd())
    found = recorded.read(name, run, trust_remote_code=trust_remote_code)
    changed = circumstances.changes(found)
    print(_heading(found, changed), flush=True)
    with _store(keep) as store:
        prepared = again.prepare(found, store, changed)
        outcome = again.train(prepared)
        parts = agreement.of(found, prepared.folder, outcome)
    if keep is not None:
        print(f"kept: {prepared.folder.path}")
    print(_results(parts), flush=True)
    if number := sum(len(part.differences) for part in parts):
        print(_causes(changed, circumstances.restoring(changed, found)), flush=True)
        raise Disagreement(f"{name} does not agree with what was recorded: {counted(number, 'difference')}, see above.")


@contextlib.contextmanager
def _store(keep: Path | None) -> Iterator[Path]:
    """The store in which the run is made again; a temporary one is deleted at the end."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="lowrung-reproduce-") as made:
            yield Path(made)
        return
    folder = keep.expanduser().absolute()
    if problems := disk.unwritable("--keep", folder):
        raise UsageError(problems)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--keep must be a new or empty folder, but {folder} holds something. Name another one.")
    yield folder


def _heading(found: "Recorded", changed: "Sequence[Change]") -> str:
    lines = [f"{found.run.path}: {found.outcome.status}, {counted(found.threads, 'thread')}"]
    if not changed:
        return "\n".join([*lines, "made with the same versions, code and processor as are here"])
    rows = [[change.what, change.then, change.now, "" if change.counts else "no"] for change in changed]
    head = ["other than it was", "then", "now", "can change a number"]
    return "\n".join([*lines, table(head, rows, left=head)])


def _results(parts: "Sequence[Part]") -> str:
    agreeing = [f"{part.compared} {part.name}" for part in parts if part.compared and not part.differences]
    differences = [each for part in parts for each in part.differences]
    lines = [f"differs: {_difference(each)}" for each in differences]
    verb = "the same to the bit" if differences else "agrees to the bit"
    lines += [f"{verb}: {', '.join(agreeing)}"] if agreeing else []
    return "\n".join([*lines, *(f"note: {note}" for part in parts for note in part.notes)])


def _difference(found: "Difference") -> str:
    """One line: tables are too wide for what is compared digit by digit."""
    values = f": {found.recorded} was recorded, {found.again} came now" if found.recorded or found.again else ""
    apart = "" if found.apart is None or math.isinf(found.apart) else f", apart by {found.apart:.3g}"
    return f"{found.what}{values}{apart}"


def _causes(changed: "Sequence[Change]", restoring: str | None) -> str:
    causes = [f"  {change}" for change in changed if change.counts]
    if not causes:
        return (
            "Nothing that is recorded of versions, code, threads and machine differs: there is no known cause. Run the"
            " command once more: if two new runs differ, something here is not deterministic (a GPU's kernels, code of"
            " your own); if they agree, the record or its files were changed."
        )
    remedy = [f"`{restoring}` in a new environment has the recorded libraries"] if restoring else []
    return "\n".join(["may explain it:", *causes, *remedy])
