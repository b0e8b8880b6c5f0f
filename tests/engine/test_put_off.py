"""bitsandbytes, which initialises CUDA when it is imported, is left to the jobs that are forked."""

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lowrung.config.signature import BITS
from lowrung.engine import put_off, worker
from lowrung.store.layout import ROOT, RunFolder
from tests import terminal, warm


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of its name, found instead of the real one, which is put aside with all its modules."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == BITS}
    for name in ours:
        del sys.modules[name]
    monkeypatch.setattr(put_off._PutOff, "was_asked_for", False)
    cuda = SimpleNamespace(is_initialized=lambda: False, _is_in_bad_fork=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    package = tmp_path / BITS
    package.mkdir()
    (package / "__init__.py").write_text("from bitsandbytes.optim import Adam\nnn = 'layers'\n")
    (package / "optim.py").write_text("class Adam: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == BITS]:
        del sys.modules[name]
    sys.modules.update(ours)


def loaded() -> set[str]:
    return {name for name in sys.modules if name.startswith(f"{BITS}.")}


def test_what_is_put_off_looks_installed_and_is_imported_in_place(package: Path) -> None:
    put_off.put_off()
    kept = importlib.import_module(BITS)  # as a library does
    assert importlib.util.find_spec(BITS) is kept.__spec__
    assert put_off.is_waiting()
    assert loaded() == set()
    put_off.load()
    assert not put_off.is_waiting()
    assert kept.nn == "layers"
    assert kept is sys.modules[BITS]
    assert type(kept) is ModuleType
    assert importlib.import_module(f"{BITS}.optim").Adam is kept.Adam


@pytest.mark.parametrize("statement", ["bitsandbytes.nn", "from bitsandbytes import Adam", "import bitsandbytes.optim"])
def test_a_library_that_looks_into_it_gets_the_real_one_at_once(package: Path, statement: str) -> None:
    put_off.put_off()
    exec("import bitsandbytes", {})
    assert try_fork() == 0
    exec("import bitsandbytes\n" + statement, {})
    assert sys.modules[BITS].nn == "layers"
    assert try_fork() == worker.BITS_LOADED


def try_fork() -> object:
    with pytest.raises(SystemExit) as end:
        worker.try_fork()
    return end.value.code


def test_one_that_cannot_be_imported_says_why_where_it_is_needed(package: Path) -> None:
    (package / "__init__.py").write_text("raise RuntimeError('no library for this card')")
    put_off.put_off()
    importlib.import_module(BITS)
    put_off.load()
    with pytest.raises(RuntimeError, match="no library for this card"):
        importlib.import_module(BITS)


def test_a_job_does_not_import_it_where_no_library_was_preloaded(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_off.put_off()
    monkeypatch.delitem(sys.modules, "torch")
    put_off.load()
    assert BITS not in sys.modules
    assert importlib.import_module(BITS).nn == "layers"


@pytest.mark.parametrize("state", ["not installed", "imported before"])
def test_nothing_is_put_off_then(package: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    if state == "not installed":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:
        importlib.import_module(BITS)
    before = sys.modules.get(BITS)
    put_off.put_off()
    assert sys.modules.get(BITS) is before
    put_off.load()
    assert not put_off.is_waiting()


A_CARD = """
import os, sys
from lowrung.engine import gpus, worker

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "bitsandbytes.cextension":
            TOUCHED.append(os.getpid())

TOUCHED = []
gpus.is_countable = lambda: False
worker.is_cuda_touched = lambda: bool(TOUCHED)
sys.meta_path.insert(0, Watch())
"""
"""Python's start on a machine with a card that nobody can count: there, importing bitsandbytes touches CUDA."""

SWEEP = (
    "model=tiny data=number_words data.train_size=64 data.eval_size=16 data.metrics=[] train.max_steps=3 track=none"
    " verify.enabled=false model.quantization=none,nf4 study=bits"
)


@pytest.mark.slow
def test_jobs_are_forked_beside_a_card_and_compute_the_same(tmp_path: Path) -> None:
    """A plain base and one in four bits, by the real libraries, with and without bitsandbytes put off."""
    (tmp_path / "sitecustomize.py").write_text(A_CARD)
    found = []
    beside_a_card = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}"}
    for name, command, extra in (("put off", terminal.train, beside_a_card), ("as ever", warm.train, {})):
        folder = tmp_path / name
        folder.mkdir()
        done = command(folder, "-m", *SWEEP.split(), **extra)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "each job imports its libraries itself" not in done.stderr
        runs = [RunFolder(path.resolve()) for path in sorted((folder / "multirun" / "bits").glob("*/run"))]
        found.append({run.path.name: metrics_of(run) for run in runs})
    assert len(found[0]) == 2
    assert found[0] == found[1]


def metrics_of(run: RunFolder) -> dict[str, float]:
    outcome = json.loads(run.outcome.read_text())
    assert outcome["status"] == "complete", outcome["cause"]
    metrics: dict[str, float] = outcome["metrics"]
    return metrics
