"""``${hydra:...}`` in a config that is resolved outside of its job."""

import contextlib
import os
from collections.abc import Iterator
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
        set_output_folder(composed)
        yield
    finally:
        HydraConfig.instance().cfg = before  # asked for again: a job puts copies of such objects in place


def set_output_folder(composed: DictConfig) -> None:
    """Sets ``hydra.runtime.output_dir`` as `run_job` will; not where it follows from the number that a job still lacks.

    Args:
        composed: the current config, with Hydra's node.
    """
    node = composed.hydra
    is_trial = node.mode is RunMode.MULTIRUN
    if not OmegaConf.is_missing(node.runtime, "output_dir") or (is_trial and OmegaConf.is_missing(node.job, "num")):
        return
    folder = os.path.join(node.sweep.dir, str(node.sweep.subdir)) if is_trial else node.run.dir  # noqa: PTH118
    with read_write(node.runtime), open_dict(node.runtime):
        node.runtime.output_dir = os.path.abspath(folder)  # noqa: PTH100  (as `run_job` does)
