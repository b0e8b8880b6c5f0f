"""`lowrung train` and `python src/train.py`: one run, or with ``-m`` a sweep. Hydra reads their arguments."""

import contextlib
import gc
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from lowrung import cli
from lowrung.commands.arguments import JSON, Commands
from lowrung.commands.trained import Trained
from lowrung.errors import RunFailed, UsageError
from lowrung.report.printer import Printer

Ended = TypeVar("Ended")

_PRINTER: ContextVar[Printer | None] = ContextVar("printer", default=None)
"""What prints the run or the sweep of this process as JSON: Hydra drops what its task and its sweeper return."""


def add_to(commands: Commands) -> None:
    """Lists the command; `lowrung.__main__` calls `start` before anything here is parsed."""
    about = "train one run, or with -m a sweep; see `lowrung train --help`"
    commands.add_parser("train", help=about, add_help=False).set_defaults(answer=Trained)


def start() -> None:
    """Runs what ``sys.argv`` says, and ends the process with its exit code (see `lowrung.cli`)."""
    as_json = JSON in sys.argv[1:]
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != JSON]
    printer = Printer("train", as_json=as_json)
    before = _PRINTER.set(printer if as_json else None)
    try:
        cli.run(main, printer)
    finally:
        _PRINTER.reset(before)


def main() -> None:
    """Runs what Hydra's options and overrides in ``sys.argv`` say."""
    gc.set_threshold(50_000, 20, 50)  # else it walks through all that is imported again and again: 1.1 of 4.8 s

    import hydra

    from lowrung.config import arguments, structured
    from lowrung.config.hydra_app import CONFIG_NAME, VERSION_BASE, show_help
    from lowrung.store.layout import ROOT

    if show_help(sys.argv[1:]):
        return
    structured.register()
    sys.argv[1:] = arguments.prepared(sys.argv[1:])
    with in_words_of_the_command_line():
        hydra.main(version_base=VERSION_BASE, config_path=str(ROOT / "conf"), config_name=CONFIG_NAME)(run)()


def complete() -> None:
    """Answers Hydra's shell completion, which asks the program without its command: ``lowrung -sc query=bash``."""
    line, is_train = re.subn(r"^(\s*\S+)\s+train(\s)", r"\1\2", os.environ.get("COMP_LINE", ""))
    if is_train:
        os.environ["COMP_LINE"] = line
        main()


def run(config: Any) -> Any:
    """Trains one run; Hydra calls it with the composed config, in a sweep once a trial."""
    from hydra.core.hydra_config import HydraConfig

    from lowrung.runs import task

    if task.assigned():  # the coordinator hears what the job raises
        return task.run(config)
    with cli.ending_on_errors(), in_words_of_the_command_line():
        require_our_sweeper(HydraConfig.get())
        require_a_sweep(HydraConfig.get())
        return kept(lambda: task.run(config))


@contextlib.contextmanager
def in_words_of_the_command_line() -> Iterator[None]:
    """Says all that is wrong with ``sys.argv`` where Hydra has raised an error about it.

    Raises:
        UsageError: with each of the problems; any other error is raised as it is.
    """
    try:
        yield
    except Exception as error:
        from lowrung.config import commandline

        if problems := commandline.explain(error, sys.argv[1:]):
            raise UsageError(problems) from error
        raise


def kept(make: Callable[[], Ended]) -> Ended:
    """Calls what trains, and has what it comes to printed where JSON was asked for, also where it failed."""
    try:
        ended = make()
    except RunFailed as failure:
        _show(failure.results)
        raise
    _show(ended)
    return ended


def _show(ended: Any) -> None:
    if (printer := _PRINTER.get()) is not None:
        printer.show(Trained.of(ended))


def require_our_sweeper(hydra: Any) -> None:
    """Refuses JSON of a sweep whose jobs another sweeper of Hydra's hands out: nobody knows of them all.

    Args:
        hydra: Hydra's node of the config; that of a single run is no sweep's.

    Raises:
        UsageError: when the sweeper is another one.
    """
    chosen = hydra.runtime.choices["hydra/sweeper"]
    if _PRINTER.get() is not None and hydra.mode.name == "MULTIRUN" and chosen != "lowrung":
        raise UsageError(f"hydra/sweeper must be lowrung with --json, but is {chosen}. Leave one of the two out.")


def require_a_sweep(hydra: Any) -> None:
    """Refuses a single run with settings of a sweep: without ``-m`` no sweeper reads them.

    Args:
        hydra: Hydra's node of the config.

    Raises:
        UsageError: when there are some, and this is no sweep.
    """
    from lowrung.config import commandline

    if hydra.mode.name == "RUN" and (given := commandline.sweep_settings(hydra)):
        needs = "needs -m, also for a single run, which would be trained without it. Add -m."
        raise UsageError([f"{text} {needs}" for text in given])
