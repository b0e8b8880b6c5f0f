"""What the fork server imports and computes for all runs is there, and a run need not do it again."""

import importlib
import sys

import pytest
from transformers import conversion_mapping

from lowrung.sweeps.entry import PRELOAD


@pytest.mark.slow
def test_all_that_is_named_can_be_imported_and_is_then_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion_mapping, "_checkpoint_conversion_mapping_cache", None)
    sys.modules.pop("lowrung.runs.preloaded", None)
    for name in PRELOAD:
        importlib.import_module(name)
    assert {"mlflow.store.tracking.sqlalchemy_store", "hydra_plugins.lowrung.sweeper"} <= sys.modules.keys()
    assert conversion_mapping._checkpoint_conversion_mapping_cache
