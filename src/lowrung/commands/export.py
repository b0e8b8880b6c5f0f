"""`lowrung export`: a run's settings and rows in another tool's own form."""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from lowrung.commands import candidates
from lowrung.commands.arguments import ADAPTER, Commands
from lowrung.commands.names import find_runs
from lowrung.errors import UsageError, blaming
from lowrung.store import atomic, disk
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.studies import finding

ABOUT = (
    "Writes what a run was trained with as a folder for another tool: its config file, and the rows as tokens, in the"
    " order in which lowrung has them. What the tool cannot do is refused, setting by setting; what it does otherwise"
    " is said. TRL and LLaMA-Factory train to the same losses; axolotl draws A's start without a seed."
)

PATTERN = re.compile(r"[][*?$]|::")
"""What `datasets`, by which tools read the rows, takes for a pattern, a variable or a chain of addresses in a path."""

TOOLS = ("trl", "axolotl", "llamafactory")


@dataclasses.dataclass(frozen=True)
class Exported:
    """A run in another tool's form.

    Attributes:
        tool: the tool.
        run: the run's folder.
        config: the tool's config file.
        data: the folder of the rows as tokens.
        base: the base model's folder, or its id on the hub.
        run_with: what trains it there.
        notes: what the tool does otherwise, in words.
    """

    tool: str
    run: Path
    config: Path
    data: Path
    base: str
    run_with: Sequence[str]
    notes: Sequence[str]

    def __str__(self) -> str:
        """Where everything is, what to run, and what is otherwise."""
        import shlex

        facts = {"config": self.config, "rows": self.data, "base": self.base, "run": shlex.join(self.run_with)}
        lines = [f"{name + ':':<9}{value}" for name, value in facts.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("export", help="write a run's settings and rows for another tool", description=ABOUT)
    parser.add_argument("run", metavar="RUN", help=f"{ADAPTER}; of a study, its best run that passed the gate")
    parser.add_argument("--to", metavar="TOOL", required=True, choices=TOOLS, help=f"one of {', '.join(TOOLS)}")
    parser.add_argument(
        "--out", metavar="FOLDER", help="the new folder: empty, or not there yet (default: RUN-TOOL, in this folder)"
    )
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> Exported:
    name = f"{re.sub(f'/|{PATTERN.pattern}', '-', chosen.run.strip('/'))}-{chosen.to}"
    return export(chosen.run, chosen.to, Path(chosen.out or name))


def export(name: str, tool: str, folder: Path) -> Exported:
    """Writes a run for another tool.

    Args:
        name: the run, trial or adapter; a study's is its best one.
        tool: one of `TOOLS`.
        folder: empty, or not there yet.

    Raises:
        UsageError: when there is no such run, it is not complete, or the tool cannot do what it did.
    """
    folder = folder.expanduser().absolute()
    run = _found(name, Path.cwd())
    problems = [*_problems(name, run), *disk.unwritable("--out", folder)]
    if PATTERN.search(str(folder)):
        problems.append(
            "--out must give a path without [, ], *, ?, $ and ::, which datasets would not take as they are, but gives"
            f" {folder}. Name another folder."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append(f"--out must be a folder that is empty or not there yet, but {folder} is not. Name another.")
    if problems:
        raise UsageError(problems)
    from lowrung.adapters import tools

    with blaming(f"The run in {run.path}"):
        try:
            made = tools.TOOLS[tool].of(run)
        except UsageError as error:
            found = [f"{name} cannot be exported to {tool}: {problem}" for problem in error.problems]
            raise UsageError(found) from None
        atomic.make_folder(folder, lambda aside: made.write(aside, folder))
    config = folder / made.CONFIG
    command = [*made.COMMAND, str(config)]
    return Exported(tool, run.path, config, folder / made.DATA, made.base, command, made.notes)


def _found(name: str, here: Path) -> RunFolder:
    study = finding.named(name, here)
    if study is not None:
        return candidates.best(study)[0].run
    (run,) = find_runs([name], here)
    return run


def _problems(name: str, run: RunFolder) -> list[str]:
    if not run.config.is_file():
        return [f"{name} must be a run or an adapter in a run's folder, but {run.path} holds no run's config.yaml."]
    with blaming(f"The record of the run, {run.outcome},"):
        outcome = Outcome.read(run.outcome)
    status = outcome.status if outcome else "unfinished"
    return [] if status == Status.COMPLETE else [f"{name} must be complete, but is {status}. Run it to its end."]
