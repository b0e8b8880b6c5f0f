"""How many runs there are at a time where the plan says it."""

from types import SimpleNamespace
from typing import Any

import pytest

from lowrung.config.schema import Config, ModelConf
from lowrung.engine.local import LocalEngine
from lowrung.engine.memory import CONTEXT, Room
from lowrung.errors import EngineError
from lowrung.sweeps import room, workers
from tests.predicted import predicted

GB = 1e9


class Facts:
    """What a study remembers."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def note(self, name: str, value: Any) -> None:
        """Writes a fact down."""
        self.facts[name] = value


def _plan(*gigabytes: float | None) -> Any:
    """A plan of runs that need so much memory, which may be unknown."""
    points = [SimpleNamespace(config=size, at_high_ends=size) for size in gigabytes]

    def predict(config: float | None, threads: int) -> Any:
        return None if config is None else predicted(memory_bytes=config * GB)

    return SimpleNamespace(points={"": points}, predict=predict)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores and 16 GB, or two GPUs of 80 GB each."""
    monkeypatch.setattr("lowrung.engine.cores.usable_cores", lambda: 8)
    monkeypatch.setattr("lowrung.engine.memory.main", lambda: Room(16 * GB, None, "main memory"))
    monkeypatch.setattr("lowrung.engine.memory.of_gpu", lambda: Room(80 * GB, None, "memory of the GPU", CONTEXT))


def _settled(plan: Any, launcher: dict[str, Any], *, slots: int = 1, study: Any = None) -> tuple[int, int]:
    with LocalEngine(slots) as engine:
        workers.settle(engine, plan, launcher, study)
        return engine.slots, engine.threads


@pytest.mark.usefixtures("machine")
class TestOnACpu:
    @pytest.fixture(autouse=True)
    def cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lowrung.config.signature.device_kind", lambda: "cpu")

    @pytest.mark.parametrize(
        ("sizes", "slots"),
        [((1, 3), 3), ((0.1,), 8), ((11.3,), 1), ((40,), 1), ((5.6, 5.5), 2), ((1, None), 1)],
    )
    def test_as_many_as_fit_into_most_of_the_memory_with_a_core_each(self, sizes, slots):
        assert _settled(_plan(*sizes), {"workers": "auto"}) == (slots, 8 // slots)

    @pytest.mark.parametrize("asked", [None, 1])
    def test_without_auto_it_is_left_as_it_is(self, asked):
        assert _settled(_plan(0.1), {"workers": asked}) == (1, 8)

    def test_what_is_for_gpus_is_said(self, capsys):
        assert _settled(_plan(0.1), {"workers": None, "workers_per_gpu": "auto"}) == (1, 8)
        assert "hydra.launcher.workers_per_gpu=auto is for GPUs" in capsys.readouterr().out

    def test_a_study_keeps_its_first_number_so_that_its_results_stay(self, capsys):
        study = Facts()
        assert _settled(_plan(3), {"workers": "auto"}, study=study) == (3, 2)
        assert _settled(_plan(1), {"workers": "auto"}, study=study) == (3, 2)
        said = "3 at a time, with 2 CPU threads each: by the plan the largest run needs 3.00 GB, and 0.7 of 16.0 GB"
        assert said in capsys.readouterr().out


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("launcher", "slots"),
    [
        ({"workers_per_gpu": "auto"}, 4),
        ({"workers": "auto", "workers_per_gpu": "auto"}, 4),
        ({"workers": "auto", "workers_per_gpu": 1}, 2),
        ({"workers": 2, "workers_per_gpu": "auto"}, 2),
    ],
)
def test_a_gpu_takes_as_many_as_fit(monkeypatch, launcher, slots):
    monkeypatch.setattr("lowrung.config.signature.device_kind", lambda: "cuda")
    assert _settled(_plan(20), launcher, slots=2)[0] == slots


@pytest.mark.usefixtures("machine")
def test_what_cuda_takes_for_each_process_is_left_to_it(monkeypatch):
    monkeypatch.setattr("lowrung.config.signature.device_kind", lambda: "cuda")
    assert _settled(_plan(13.5), {"workers_per_gpu": "auto"}, slots=2)[0] == 6  # 4 * 13.5 GB alone would fit on each
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    config = Config(model=ModelConf("embedded:tiny"))
    shared = room.of_run(config, {"workers_per_gpu": 2}, 4)
    assert (shared.bytes, shared.at_once) == (40 * GB - CONTEXT, 2)


@pytest.mark.parametrize(("slots", "sharing"), [(2, 1), (4, 2), (5, 3)])
def test_how_many_share_a_gpu_follows_from_the_slots(monkeypatch, slots, sharing):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert workers.sharing({"workers_per_gpu": "auto"}, slots) == sharing


def test_an_engine_is_given_one_slot_at_least():
    with LocalEngine() as engine, pytest.raises(EngineError, match="one at least"):
        engine.resize(0)
