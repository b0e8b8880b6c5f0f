"""`lowrung doctor`: what is wrong with this installation and machine, and what to do."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowrung.checks.finding import Finding, Level
from lowrung.commands.arguments import Commands
from lowrung.errors import LowrungError
from lowrung.report.tables import counted

ABOUT = (
    "Checks versions, processor and threads, memory, GPUs, disks and their file locks, the cache, the tracker and"
    " engines of clusters, in the folder in which it is called. Values of passwords and tokens are not printed. Nothing"
    " is asked of the hub. Exit code 1 where something is wrong."
)


class Unwell(LowrungError):  # noqa: N818  (it names a state; exit code 1)
    """Something is wrong here."""


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        findings: each with its level, ``ok``, ``note`` or ``wrong``, and with what to do about it.
    """

    findings: Sequence[Finding]

    def __str__(self) -> str:
        """A line for each, with the remedy below it."""
        is_well = all(finding.level is not Level.WRONG for finding in self.findings)
        return "\n".join([*map(str, self.findings), *["Nothing is wrong."] * is_well])


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("doctor", help="check this installation and machine", description=ABOUT)
    parser.set_defaults(command=_run)


def _run(_: argparse.Namespace) -> Iterator[Diagnosis]:
    findings = list(diagnose(Path.cwd()))
    yield Diagnosis(findings)
    if number := sum(finding.level is Level.WRONG for finding in findings):
        raise Unwell(f"{counted(number, 'thing')} must be put right: see the lines that begin with `wrong`.")


def diagnose(here: Path) -> Iterator[Finding]:
    """All that is found; a check that fails or does not end is a finding itself.

    Args:
        here: the folder of runs and sweeps.
    """
    from lowrung.checks import computing, disks, software, surroundings

    for module in (software, computing, disks, surroundings):
        for check in module.checks(here):
            yield from check.findings()
