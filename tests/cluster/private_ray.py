"""Ray's own clusters of several nodes on this machine, for tests."""

import pytest
import ray
from ray.cluster_utils import Cluster


def one_node() -> Cluster:
    """A cluster of one node with one CPU; where Ray starts none here, the test is skipped with what it says."""
    try:
        return Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    except Exception as error:
        pytest.skip(f"Ray does not start here: {str(error).strip().splitlines()[:1]}")


def skip_where_ray_cannot_start() -> None:
    """Returns where it can."""
    one_node().shutdown()
    ray.shutdown()
