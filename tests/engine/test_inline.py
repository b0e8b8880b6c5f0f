import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowrung.engine.base import Engine, Job
from tests.engine import contract
from tests.engine.inline import InlineEngine


class TestInlineEngine(contract.EngineContract):
    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        engine = InlineEngine()
        yield engine
        engine.close()


def test_runs_in_this_process_with_its_objects(tmp_path: Path) -> None:
    seen: list[int] = []
    engine = InlineEngine()
    engine.submit(Job("a", tmp_path, lambda: seen.append(os.getpid())))
    engine.wait()
    assert seen == [os.getpid()]


def test_a_job_that_dies_leaves_lock_and_environment_free(tmp_path: Path) -> None:
    engine = InlineEngine()
    engine.submit(Job("a", tmp_path, lambda: exit(3), env={"LOWRUNG_TEST": "1"}))
    with pytest.raises(SystemExit):
        engine.wait()
    assert "LOWRUNG_TEST" not in os.environ
    engine.submit(Job("a", tmp_path, lambda: None))
