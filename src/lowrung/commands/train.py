"""``lowrung train`` and ``python src/train.py``: one run, or with ``-m`` a sweep. Hydra reads the command line."""

from typing import Any

import hydra

from lowrung import cli
from lowrung.config import schema
from lowrung.config.hydra_app import CONFIG_NAME, VERSION_BASE
from lowrung.store.layout import ROOT

schema.register()


@hydra.main(version_base=VERSION_BASE, config_path=str(ROOT / "conf"), config_name=CONFIG_NAME)
def main(config: Any) -> Any:
    """Trains one run; Hydra calls it with the composed config, in a sweep once a trial."""
    from lowrung.runs import task

    with cli.ending_on_errors():
        return task.run(config)
