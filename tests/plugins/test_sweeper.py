"""The sweeper as a Hydra plugin; what it does is in tests/test_sweep.py.

Hydra's own sweeper suite (`BatchedSweeperTestSuite`) sweeps over configs of its own, which lowrung's coordinator does
not know, and expects batches, of which it has none.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from hydra_plugins.lowrung.sweeper import LowrungSweeper
from lowrung import sweep
from lowrung.layout import ROOT
from tests import composing
from tests.composing import Composer


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with composing.composer() as made:
        yield made


def test_hydra_finds_it():
    found = Plugins.instance().discover(Sweeper)
    assert LowrungSweeper.__name__ in [plugin.__name__ for plugin in found]


def test_its_settings_are_in_the_config_store():
    node = ConfigStore.instance().load("hydra/sweeper/lowrung.yaml").node
    assert node == {
        "_target_": "hydra_plugins.lowrung.sweeper.LowrungSweeper",
        "n_trials": None,
        "objectives": None,
        "params": {},
    }


def test_scanning_it_imports_nothing_but_hydra():
    code = (
        "import sys, hydra_plugins.lowrung.sweeper, hydra_plugins.lowrung.search_path\n"
        "print(*{'lowrung.sweep', 'lowrung.app', 'rich', 'torch', 'optuna', 'mlflow'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    output = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert output.stdout == "\n"


def test_plugins_that_define_dataclasses_keep_their_annotations():
    """Hydra reads them; as text it could not."""
    for path in (ROOT / "src" / "hydra_plugins" / "lowrung").glob("*.py"):
        imported = [node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert "__future__" not in imported, path


class TestSweep:
    """What it hands to the coordinator."""

    @pytest.fixture
    def handed(self, composer: Composer, monkeypatch: pytest.MonkeyPatch) -> Any:
        def hand(*overrides: str) -> dict[str, Any]:
            got: dict[str, Any] = {}
            monkeypatch.setattr(sweep, "run", lambda overrides, **named: got.update(named, overrides=overrides))
            master = composer.compose(overrides, RunMode.MULTIRUN)
            context = HydraContext(composer.hydra.config_loader, callbacks=SimpleNamespace())  # type: ignore[arg-type]
            sweeper = Plugins.instance().instantiate_sweeper(
                config=master, hydra_context=context, task_function=lambda config: None
            )
            sweeper.sweep([str(text) for text in OmegaConf.to_container(master.hydra.overrides.task) or []])
            return got

        return hand

    def test_the_default_is_the_least_eval_loss(self, handed):
        got = handed("lora.r=2,4")
        assert got["overrides"] == ["lora.r=2,4"]
        assert (got["n_trials"], got["objectives"]) == (None, {"eval/loss": "minimize"})
        assert got["config"].hydra.sweeper.n_trials is None
        assert hasattr(got["launcher"], "make_engine")

    def test_its_settings_come_along(self, handed):
        got = handed("lora.r=2,4", "hydra.sweeper.n_trials=3", "hydra.sweeper.objectives={eval/exact_match:maximize}")
        assert got["overrides"] == ["lora.r=2,4"]
        assert got["n_trials"] == 3
        assert got["objectives"] == {"eval/exact_match": "maximize"}

    def test_a_presets_space_comes_before_the_command_lines(self, handed):
        got = handed("sweeps=rank_ladder", "lora.r=2,4")
        assert got["overrides"] == ["lora.r=2,4,8,16,32", "sweeps=rank_ladder", "lora.r=2,4"]

    @pytest.mark.parametrize(
        ("given", "override"),
        [(None, "x=null"), (4, "x=4"), (1e-4, "x=0.0001"), ("1,2", "x=1,2"), (True, "x=True"), ([1, 2], "x=[1, 2]")],
    )
    def test_a_presets_values_become_overrides(self, monkeypatch, given, override):
        got: list[list[str]] = []
        monkeypatch.setattr(sweep, "run", lambda overrides, **_: got.append(overrides))
        sweeper = LowrungSweeper(n_trials=None, objectives=None, params={"x": given})
        nothing: Any = SimpleNamespace()
        sweeper.hydra_context, sweeper.config, sweeper.task_function, sweeper.launcher = (nothing,) * 4
        sweeper.sweep(["y=1"])
        assert got == [[override, "y=1"]]
