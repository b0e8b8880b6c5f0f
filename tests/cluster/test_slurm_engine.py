"""The engine contract on a SLURM of two nodes, and what only SLURM does to jobs. See `make test-cluster`."""

from collections.abc import Iterator

import pytest

pytest.importorskip("submitit", reason="submitit is not installed: make test-cluster installs it")

from lowrung.engine.base import Engine
from lowrung.engine.slurm_engine import SlurmEngine
from lowrung.engine.slurm_submission import Options
from tests.cluster.private_slurm import PrivateSlurm
from tests.engine.contract import ProcessEngineContract

pytestmark = pytest.mark.slow


def engine_with(partition: str = "debug", **settings: object) -> SlurmEngine:
    """An engine of two slots that asks SLURM every second."""
    known = {"slots": 2, "cpus_per_job": 1, "options": Options(partition=partition), "poll_seconds": 1.0, **settings}
    return SlurmEngine(**known)  # type: ignore[arg-type]


class TestContract(ProcessEngineContract):
    @pytest.fixture
    def engine(self, slurm: PrivateSlurm) -> Iterator[Engine]:
        with engine_with() as engine:
            yield engine

    @pytest.fixture
    def hasty_engine(self, slurm: PrivateSlurm) -> Iterator[Engine]:
        with engine_with(time_limit=1) as engine:
            yield engine
