"""What the tests of clusters share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import private_slurm
from tests.cluster.private_slurm import PrivateSlurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[PrivateSlurm]:
    """A SLURM of two nodes, which commands of this process and of those that it starts find."""
    if reason := private_slurm.why_not():
        pytest.skip(reason)
    # Not pytest's folder: a socket's path is short, and a database wants a disk.
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        pytest.MonkeyPatch.context() as patch,
        private_slurm.running(Path(folder)) as cluster,
    ):
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
            patch.delenv(name)
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster
