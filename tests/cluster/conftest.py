"""What the tests of clusters share."""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import private_slurm
from tests.cluster.private_slurm import CannotStart, PrivateSlurm

# Ray's processes have the lowest priority but four, by its default: beside a busy neighbour they hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(autouse=True, scope="module")
def _what_ray_takes_is_put_back() -> Iterator[None]:
    """Each node that Ray starts here takes SIGTERM for itself, and each driver changes what is imported from where."""
    before, path = signal.getsignal(signal.SIGTERM), list(sys.path)
    yield
    signal.signal(signal.SIGTERM, before)
    sys.path[:] = path


@contextlib.contextmanager
def slurm_or_skip(*, accounting: bool = True) -> Iterator[PrivateSlurm]:
    """A SLURM of two nodes, which commands of this process and of those that it starts find while the block runs."""
    if reason := private_slurm.why_not():
        pytest.skip(reason)
    # Not pytest's folder: a socket's path is short, and a database wants a disk.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, pytest.MonkeyPatch.context() as patch:
        cluster = PrivateSlurm(Path(folder), accounting=accounting)
        try:
            cluster.start()
            for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
                patch.delenv(name)
            for name, value in cluster.environment.items():
                patch.setenv(name, value)
            yield cluster
        except CannotStart as error:
            pytest.skip(str(error))
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def slurm() -> Iterator[PrivateSlurm]:
    """The one that all tests share."""
    with slurm_or_skip() as cluster:
        yield cluster
