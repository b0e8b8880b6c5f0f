"""`lowrung train` and `python src/train.py`: one run, or with ``-m`` a sweep. Hydra reads their arguments."""

import gc
import os
import re
import sys
from typing import Any

from lowrung import cli
from lowrung.commands.arguments import Commands


def add_to(commands: Commands) -> None:
    """Lists the command; `lowrung.__main__` calls `main` before anything here is parsed."""
    commands.add_parser("train", help="train one run, or with -m a sweep; see `lowrung train --help`", add_help=False)


def main() -> None:
    """Runs what Hydra's options and overrides in ``sys.argv`` say."""
    gc.set_threshold(50_000, 20, 50)  # else it walks through all that is imported again and again: 1.1 of 4.8 s

    import hydra

    from lowrung.config import arguments, schema
    from lowrung.config.hydra_app import CONFIG_NAME, VERSION_BASE, show_help
    from lowrung.store.layout import ROOT

    if show_help(sys.argv[1:]):
        return
    schema.register()
    sys.argv[1:] = arguments.prepared(sys.argv[1:])
    hydra.main(version_base=VERSION_BASE, config_path=str(ROOT / "conf"), config_name=CONFIG_NAME)(run)()


def complete() -> None:
    """Answers Hydra's shell completion, which asks the program without its command: ``lowrung -sc query=bash``."""
    line, is_train = re.subn(r"^(\s*\S+)\s+train(\s)", r"\1\2", os.environ.get("COMP_LINE", ""))
    if is_train:
        os.environ["COMP_LINE"] = line
        main()


def run(config: Any) -> Any:
    """Trains one run; Hydra calls it with the composed config, in a sweep once a trial."""
    from lowrung.runs import task

    if task.assigned():  # the coordinator hears what the job raises
        return task.run(config)
    with cli.ending_on_errors():
        return task.run(config)
