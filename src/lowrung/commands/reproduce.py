"""`lowrung reproduce`: a recorded run is made again, and it is said whether the numbers agree to the bit."""

import argparse
import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowrung.commands.arguments import ADAPTER, Commands, add_trust
from lowrung.commands.names import find_runs
from lowrung.errors import LowrungError, StoreError, UsageError
from lowrung.report.tables import counted, table
from lowrung.reproduction.findings import Change, Difference, Part
from lowrung.store import disk

ABOUT = (
    "Trains a run again from its recorded config, with the recorded number of threads, in a store of its own, and"
    " compares every metric, the learning curve, the scores of each held-out example and what was trained. What differs"
    " in versions, code or machine is listed first. The recorded run is only read, and nothing is tracked. Code of"
    " the base's, and functions in data.metrics, run with --trust-remote-code alone. Exit code 0"
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
    add_trust(parser, ", and functions that data.metrics names")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> "Iterator[Circumstances | Reproduction]":
    return reproduce(chosen.run, chosen.keep, trust_remote_code=chosen.trust_remote_code)


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What is known before the run is made again.

    Attributes:
        run: the recorded run's folder.
        status: how it ended.
        threads: the CPU threads that it was trained with.
        changes: what is other than it was.
    """

    run: Path
    status: str
    threads: int
    changes: Sequence[Change]

    def __str__(self) -> str:
        """The run, and a row for each change."""
        heading = f"{self.run}: {self.status}, {counted(self.threads, 'thread')}"
        if not self.changes:
            return f"{heading}\nmade with the same versions, code and processor as are here"
        rows = [[each.what, each.then, each.now, "" if each.counts else "no"] for each in self.changes]
        head = ["other than it was", "then", "now", "can change a number"]
        return f"{heading}\n{table(head, rows, left=head)}"


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """How the new run compares with the recorded one.

    Attributes:
        agrees: whether all that was compared is the same to the bit.
        parts: what was compared, by kind.
        causes: what is other than it was, and may explain the differences.
        restoring: what to type to have the recorded versions of the libraries that differ; null where none does.
        kept: the new run's folder; null where it was not kept.
    """

    agrees: bool
    parts: Sequence[Part]
    causes: Sequence[Change]
    restoring: str | None
    kept: Path | None

    def __str__(self) -> str:
        """A line for each difference, and what agrees; then what may explain it."""
        agreeing = [f"{part.compared} {part.name}" for part in self.parts if part.compared and not part.differences]
        lines = [f"kept: {self.kept}"] if self.kept else []
        lines += [f"differs: {_difference(each)}" for part in self.parts for each in part.differences]
        verb = "agrees to the bit" if self.agrees else "the same to the bit"
        lines += [f"{verb}: {', '.join(agreeing)}"] if agreeing else []
        lines += [f"note: {note}" for part in self.parts for note in part.notes]
        return "\n".join(lines if self.agrees else [*lines, *self._explained()])

    def _explained(self) -> Iterator[str]:
        if not self.causes:
            yield (
                "Nothing that is recorded of versions, code, threads and machine differs: there is no known cause. Run"
                " the command once more: if two new runs differ, something here is not deterministic (a GPU's kernels,"
                " code of your own); if they agree, the record or its files were changed."
            )
            return
        yield "may explain it:"
        yield from (f"  {change}" for change in self.causes)
        if self.restoring:
            yield f"`{self.restoring}` in a new environment has the recorded libraries"


def _difference(found: Difference) -> str:
    """One line: tables are too wide for what is compared digit by digit."""
    values = f": {found.recorded} was recorded, {found.again} came now" if found.recorded or found.again else ""
    apart = "" if found.apart is None or math.isinf(found.apart) else f", apart by {found.apart:.3g}"
    return f"{found.what}{values}{apart}"


def reproduce(
    name: str, keep: Path | None = None, *, trust_remote_code: bool = False
) -> Iterator[Circumstances | Reproduction]:
    """Makes a run again and says what agrees and what does not.

    Args:
        name: a run, a trial, an adapter of a run, or MLflow's id.
        keep: a new or empty folder, the store in which the new run is kept; None keeps nothing.
        trust_remote_code: run Python code that comes with the base, or that the config's data.metrics names.

    Yields:
        what is other than it was, before the run is made again; then how the two compare.

    Raises:
        UsageError: when the run cannot be made again, or its records cannot be used.
        Disagreement: when the results are not the same to the bit.
    """
    from lowrung.reproduction import again, agreement, circumstances, recorded

    (run,) = find_runs([name], Path.cwd())
    try:
        found = recorded.read(name, run, trust_remote_code=trust_remote_code)
    except StoreError as error:  # as any other run that cannot be made again: exit code 1 is for numbers that differ
        raise UsageError(str(error)) from error
    changed = circumstances.changes(found)
    yield Circumstances(run.path, str(found.outcome.status), found.threads, changed)
    with _store(keep) as store:
        prepared = again.prepare(found, store, changed)
        outcome = again.train(prepared)
        parts = agreement.of(found, prepared.folder, outcome)
    differing = sum(len(part.differences) for part in parts)
    causes = [change for change in changed if change.counts]
    kept = prepared.folder.path if keep else None
    yield Reproduction(not differing, parts, causes, circumstances.restoring(changed, found), kept)
    if differing:
        raise Disagreement(
            f"{name} does not agree with what was recorded: {counted(differing, 'difference')}, see above."
        )


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
