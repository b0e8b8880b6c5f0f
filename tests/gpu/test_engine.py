"""The engine's processes on a real card."""

from functools import partial

import pytest

from lowrung.engine import gpus
from lowrung.engine.base import Ended, Exit, Job
from lowrung.engine.local import LocalEngine
from tests.engine.contract import end_of, events_of
from tests.gpu import jobs


@pytest.mark.gpu(seconds=20)
def test_torch_and_lowrung_see_the_same_cards(device, forking, tmp_path):
    if device == "cpu":
        pytest.skip("a CPU has no cards to count")
    seen = []
    for number in range(2):
        forking.submit(Job(str(number), tmp_path / str(number), jobs.cards))
        seen.append(end_of(forking, str(number)).value)
    assert {each["count"] for each in seen} == {1}
    assert all(each["listed"] in gpus.visible() for each in seen)
    assert gpus.absent() == []


@pytest.mark.gpu(seconds=20)
def test_a_forked_child_uses_the_card(device, forking, tmp_path):
    forking.submit(Job("a", tmp_path, partial(jobs.compute, device)))
    ended = end_of(forking, "a")
    assert ended.exit is Exit.RETURNED, ended.cause
    assert ended.value["had_torch"]  # it was forked: a process that is spawned imports torch itself
    assert (ended.value["device"], ended.value["sum"]) == (device, 256.0**3)
    assert not ended.value["is_in_bad_fork"]


@pytest.mark.gpu(seconds=20)
def test_two_workers_compute_on_one_card(device, forking, tmp_path):
    a, b = tmp_path / "a is there", tmp_path / "b is there"
    one = gpus.visible()[:1]
    with LocalEngine(2, ["torch"]) as engine:
        env = {gpus.VISIBLE: one[0]} if one else {}
        engine.submit(Job("a", tmp_path / "a", partial(jobs.meet, device, a, b), env=env))
        engine.submit(Job("b", tmp_path / "b", partial(jobs.meet, device, b, a), env=env))
        ends = [event for event in events_of(engine, "a", "b") if isinstance(event, Ended)]
    assert [(end.exit, end.value) for end in ends] == [(Exit.RETURNED, 1024.0**3)] * 2


@pytest.mark.gpu(seconds=30)
def test_every_slot_sees_its_own_card(device, records, tmp_path):
    there = gpus.visible()
    with LocalEngine(max(1, len(there)), ["torch"]) as engine:
        keys = [str(number) for number in range(engine.slots)]
        for key in keys:
            engine.submit(Job(key, tmp_path / key, jobs.cards))
        seen = {event.key: event.value for event in events_of(engine, *keys) if isinstance(event, Ended)}
    if device == "cpu":
        assert seen["0"]["count"] == 0
        return
    assert sorted(seen[key]["listed"] for key in keys) == sorted(there)
    assert [len(seen[key]["uuids"]) for key in keys] == [1] * len(keys)
    assert len({seen[key]["uuids"][0] for key in keys}) == len(keys)
    records({"cards": len(keys)})
