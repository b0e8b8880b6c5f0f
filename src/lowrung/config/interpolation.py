"""``${hydra:...}`` in a config that is resolved outside of its job."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


@contextlib.contextmanager
def own_hydra_node(composed: DictConfig) -> Iterator[None]:
    """While the block runs, ``${hydra:...}`` is found in this config's own Hydra node, as it is in its job.

    Args:
        composed: a config; one without Hydra's node changes nothing.
    """
    if "hydra" not in composed:
        yield
        return
    singleton: Any = HydraConfig.instance()
    before = singleton.cfg
    singleton.cfg = composed  # set_config would copy it first, which takes longer than all else here
    try:
        if OmegaConf.is_missing(composed.hydra.runtime, "output_dir") and composed.hydra.mode is not RunMode.MULTIRUN:
            set_output_folder(composed, composed.hydra.run.dir)
        yield
    finally:
        HydraConfig.instance().cfg = before  # asked for again: a job puts copies of such objects in place


def set_output_folder(composed: DictConfig, *parts: str) -> None:
    """Sets ``hydra.runtime.output_dir`` as `run_job` will.

    Args:
        composed: a config with Hydra's node.
        parts: of the folder.
    """
    node = composed.hydra.runtime
    with read_write(node), open_dict(node):
        node.output_dir = str(absolute(*parts))


def absolute(*parts: str) -> Path:
    """A job's folder as `run_job` makes it absolute: links are not followed."""
    return Path(os.path.abspath(os.path.join(*parts)))  # noqa: PTH100, PTH118
