"""The sweeper as a Hydra plugin; what it does is in tests/sweeps.

Hydra's own sweeper suite (`BatchedSweeperTestSuite`) sweeps over configs of its own, which lowrung's coordinator does
not know, and expects batches, of which it has none.
"""

import ast
import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from hydra_plugins.lowrung.choices import PRUNERS, SAMPLERS
from hydra_plugins.lowrung.sweeper import LowrungSweeper
from lowrung.config.sweeper_schema import SweeperConf
from lowrung.search import pruning, samplers
from lowrung.store.layout import ROOT
from lowrung.sweeps import entry
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
    assert set(node) == {"defaults", "_target_", *(field.name for field in dataclasses.fields(SweeperConf))}
    assert node.defaults == [{"sampler": "tpe"}, {"pruner": "none"}]
    assert node._target_ == "hydra_plugins.lowrung.sweeper.LowrungSweeper"


class TestGroups:
    """``hydra/sweeper/sampler`` and ``hydra/sweeper/pruner``: what can be chosen is what there is."""

    def test_every_sampler_and_every_pruner_has_its_name(self):
        assert tuple(SAMPLERS) == samplers.NAMES
        assert tuple(PRUNERS) == pruning.NAMES

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_the_settings_of_a_sampler_are_those_that_it_takes(self, composer, name):
        if name == "cmaes" and importlib.util.find_spec("cmaes") is None:
            pytest.skip("cmaes is not installed")
        chosen = dict(composer.compose([f"hydra/sweeper/sampler={name}"]).hydra.sweeper.sampler)
        assert chosen["name"] == name
        made = samplers.make(chosen, seed=0, trial_number=0)
        assert type(made).__name__.lower().startswith({"nsga2": "nsgaii", "grid": "random"}.get(name, name))

    @pytest.mark.parametrize("name", PRUNERS)
    def test_the_settings_of_a_pruner_are_those_that_it_takes(self, composer, name):
        chosen = dict(composer.compose([f"hydra/sweeper/pruner={name}"]).hydra.sweeper.pruner)
        assert chosen["name"] == name
        made = pruning.make(chosen, max_resource=9)
        kinds = {"none": "NopPruner", "asha": "SuccessiveHalvingPruner"}
        assert type(made).__name__ == kinds.get(name, f"{name.capitalize()}Pruner")
        assert pruning.problems(chosen, {"eval/loss": "minimize"}, [pruning.Schedule(5, 20)], seeds=5) == []

    def test_the_defaults(self, composer):
        chosen = composer.compose().hydra.sweeper
        assert chosen.sampler == {"name": "tpe", "n_startup_trials": 10, "multivariate": None}
        assert chosen.pruner == {"name": "none"}

    def test_a_setting_below_the_choice(self, composer):
        overrides = ["hydra/sweeper/pruner=asha", "hydra.sweeper.pruner.reduction_factor=4"]
        assert composer.compose(overrides).hydra.sweeper.pruner.reduction_factor == 4

    @pytest.mark.parametrize("override", ["hydra.sweeper.pruner.min_resource=1", "hydra.sweeper.sampler.popsize=4"])
    def test_a_setting_of_another_choice_is_refused(self, composer, override):
        with pytest.raises(ConfigCompositionException):
            composer.compose([override])

    def test_hydras_own_sweeper_has_neither(self, composer):
        assert {"sampler", "pruner"}.isdisjoint(composer.compose(["hydra/sweeper=basic"]).hydra.sweeper)


def test_scanning_it_imports_nothing_but_hydra():
    code = (
        "import sys, hydra_plugins.lowrung.sweeper, hydra_plugins.lowrung.search_path\n"
        "print(*{'lowrung.sweeps.entry', 'lowrung.runs.task', 'rich', 'torch', 'optuna', 'mlflow'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    output = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert output.stdout == "\n"


def test_plugins_that_define_dataclasses_keep_their_annotations():
    """Hydra reads them; as text it could not."""
    paths = [*(ROOT / "src" / "hydra_plugins" / "lowrung").glob("*.py")]
    assert paths
    for path in paths:
        imported = [node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert "__future__" not in imported, path


class TestSweep:
    """What it hands to the coordinator."""

    @pytest.fixture
    def handed(self, composer: Composer, monkeypatch: pytest.MonkeyPatch) -> Any:
        def hand(*overrides: str) -> dict[str, Any]:
            got: dict[str, Any] = {}
            monkeypatch.setattr(entry, "run", lambda asked, **named: got.update(named, asked=asked))
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
        assert got["asked"].stages[0].spaces == (("lora.r=2,4",),)
        assert (got["settings"].n_trials, got["settings"].objectives) == (None, {"eval/loss": "minimize"})
        assert got["settings"].sampler == {"name": "tpe", "n_startup_trials": 10, "multivariate": None}
        assert got["settings"].pruner == {"name": "none"}
        assert got["config"].hydra.sweeper.n_trials is None
        assert hasattr(got["launcher"], "make_engine")

    def test_its_settings_come_along(self, handed):
        got = handed("lora.r=2,4", "hydra.sweeper.n_trials=3", "hydra.sweeper.objectives={eval/exact_match:maximize}")
        assert got["asked"].stages[0].spaces == (("lora.r=2,4",),)
        assert got["settings"].n_trials == 3
        assert got["settings"].objectives == {"eval/exact_match": "maximize"}

    def test_the_sampler_and_the_pruner_come_along_as_plain_dicts(self, handed):
        pruner = ("hydra/sweeper/pruner=percentile", "hydra.sweeper.pruner.percentile=10")
        got = handed("lora.r=2,4", "hydra/sweeper/sampler=random", *pruner)
        assert type(got["settings"].sampler) is type(got["settings"].pruner) is dict
        assert got["settings"].sampler == {"name": "random"}
        assert got["settings"].pruner == {
            "name": "percentile",
            "percentile": 10.0,
            "n_startup_trials": 5,
            "n_warmup": 0,
        }

    def test_a_presets_space_comes_before_the_command_lines(self, handed):
        got = handed("sweeps=rank_ladder", "lora.r=2,4")
        assert got["asked"].stages[0].spaces == (("lora.r=2,4,8,16,32,64", "sweeps=rank_ladder", "lora.r=2,4"),)
