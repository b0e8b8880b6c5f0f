"""The entry point: one run, or with ``-m`` a sweep. See ``python src/train.py --help``."""

import signal
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries are imported needs no traceback
import hydra

sys.path.insert(0, str(Path(__file__).resolve().parent))  # works uninstalled too

from lowrung import cli
from lowrung.config import schema

schema.register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(config: Any) -> Any:
    """Trains one run; Hydra calls it with the composed config, in a sweep once a trial."""
    from lowrung.runs import task

    with cli.ending_on_errors():
        return task.run(config)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.run(main)
