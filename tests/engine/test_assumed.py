"""Machines that a plan is made for."""

import pytest

from lowrung.config import signature
from lowrung.engine import gpus, memory
from lowrung.engine.assumed import Machine, assume, problems


def test_a_machine_is_taken_for_this_one_while_the_block_runs():
    before = gpus.visible(), memory.main(), signature.device_kind()
    with assume(Machine.of({"gpus": 2, "memory": "80GB"})):
        assert (gpus.visible(), gpus.problems(), signature.device_kind()) == (["0", "1"], [], "cuda")
        assert memory.of_gpu() == memory.Room(80e9, None, "GPU memory", memory.CONTEXT)
    with assume(Machine.of({"gpus": 0, "memory": "64GB"})):
        assert (gpus.visible(), signature.device_kind()) == ([], "cpu")
        assert memory.main() == memory.Room(64e9, None, "main memory")
    assert (gpus.visible(), signature.device_kind()) == (before[0], before[2])


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"memory": "80XB"}, "memory must be an amount such as 80GB (10^9 bytes each) or 80GiB (2^30), but is '80XB'"),
        ({"memory": 0}, "memory must be an amount"),
        ({"gpus": -1}, "gpus must be a whole number of at least 0, but is -1"),
        ({"gpus": 1.5}, "gpus must be a whole number"),
        ({"gpus": True}, "gpus must be a whole number"),
        ({"tflops": 0}, "tflops must be a number above 0, but is 0"),
        ({"gpu": 1}, "must be a dict of gpus, memory and tflops, or of some of these, but is {'gpu': 1}"),
        ({}, "must be a dict of"),
        ("80GB", "must be a dict of gpus, memory and tflops, or of some of these, but is '80GB'. Write"),
    ],
)
def test_what_cannot_be_read_is_refused(written, said):
    (problem,) = problems(written, is_dry_run=True)
    assert said in problem


def test_it_is_for_plans_alone():
    (problem,) = problems({"gpus": 1}, is_dry_run=False)
    assert "Add hydra.sweeper.dry_run=true" in problem
    assert list(problems(None, is_dry_run=False)) == []
