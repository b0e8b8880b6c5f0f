import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.test_utils.test_utils import TSweepRunner
from omegaconf import DictConfig

from hydra_plugins.lowrung.local_launcher import LocalLauncher
from lowrung.engine import gpus, process
from lowrung.errors import EngineError, UsageError
from lowrung.store.layout import ROOT, RunFolder


def test_hydra_finds_it() -> None:
    assert LocalLauncher.__name__ in [plugin.__name__ for plugin in Plugins.instance().discover()]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher_name", "overrides"), [("local", [])])
class TestAsHydraTestsLaunchers(LauncherTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=local"])])
class TestAsHydraTestsCommands(IntegrationTestSuite):
    @pytest.fixture(autouse=True)
    def _find_the_plugin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))


def scanned() -> type[LocalLauncher]:
    """The class that Hydra uses: its scanner runs plugin modules again, and so makes another than was imported."""
    return cast(
        type[LocalLauncher], Plugins.instance().class_name_to_class[f"{LocalLauncher.__module__}.LocalLauncher"]
    )


@contextmanager
def launched(runner: TSweepRunner, folder: Path, task: Any, overrides: list[str]) -> Iterator[list[JobReturn]]:
    """The results of one sweep with ``hydra/launcher=local``, without the sweeper's look at them."""
    results: list[JobReturn] = []
    original = scanned().launch

    def keep(self: LocalLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        results.extend(original(self, job_overrides, initial_job_idx))
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Plugins.instance().class_name_to_class[f"{LocalLauncher.__module__}.LocalLauncher"], "launch", keep
        )
        with runner(
            calling_file=None,
            calling_module="hydra.test_utils.a_module",
            task_function=task,
            config_path="configs",
            config_name="compose.yaml",
            overrides=["hydra/launcher=local", *overrides],
            temp_dir=folder,
        ):
            yield results


@pytest.mark.slow
def test_each_job_has_its_own_end(hydra_sweep_runner: TSweepRunner, tmp_path: Path) -> None:
    def task(config: DictConfig) -> Any:
        if config.end == "die":
            os._exit(3)
        if config.end == "raise":
            raise ValueError("too large")
        return os.getpid()

    overrides = ["+end=die,raise,return", "hydra.launcher.workers=2"]
    with launched(hydra_sweep_runner, tmp_path, task, overrides) as (died, raised, returned):
        assert "Traceback" in RunFolder(tmp_path / "1").log.read_text()
        assert died.status is JobStatus.FAILED
        assert died.overrides == ["+end=die"]
        with pytest.raises(EngineError, match=r"job 0 did neither: exit code 3. Read .*/0/log.txt"):
            _ = died.return_value
        assert raised.status is JobStatus.FAILED
        with pytest.raises(ValueError, match="too large"):
            _ = raised.return_value
        assert returned.status is JobStatus.COMPLETED
        assert returned.return_value != os.getpid()


@pytest.mark.slow
def test_each_job_sees_its_share_of_the_gpus(
    hydra_sweep_runner: TSweepRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    overrides = ["+x=1,2", "hydra.launcher.gpus_per_trial=2"]
    with launched(hydra_sweep_runner, tmp_path, lambda _: os.environ["CUDA_VISIBLE_DEVICES"], overrides) as results:
        assert [result.return_value for result in results] == ["4,5", "4,5"]


@pytest.mark.slow
def test_a_batch_is_spread_over_all_gpus(
    hydra_sweep_runner: TSweepRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_visible(monkeypatch, "4,7", 8)

    def task(_: DictConfig) -> str:
        """Ends when all four have started."""
        folder = Path(HydraConfig.get().runtime.output_dir)
        (folder / "started").touch()
        while len(list(folder.parent.glob("*/started"))) < 4:
            time.sleep(0.01)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    overrides = ["+x=1,2,3,4", "hydra.launcher.workers_per_gpu=2"]
    with launched(hydra_sweep_runner, tmp_path, task, overrides) as results:
        assert [result.return_value for result in results] == ["4", "7", "4", "7"]


@pytest.mark.slow
def test_a_batch_goes_on_without_a_job_that_ran_too_long(
    hydra_sweep_runner: TSweepRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"

    def task(config: DictConfig) -> Any:
        if config.end == "never":
            started.touch()
            time.sleep(1000)
        return config.end

    clock = SimpleNamespace(monotonic=lambda: 6.0 if started.exists() else 0.0)  # it stands still for the other job
    monkeypatch.setattr(process, "time", clock)
    overrides = ["+end=never,soon", "hydra.launcher.time_limit=5s", "hydra.launcher.workers=1"]
    with launched(hydra_sweep_runner, tmp_path, task, overrides) as (never, soon):
        assert never.status is JobStatus.FAILED
        with pytest.raises(EngineError, match=r"job 0 did neither: ran past hydra.launcher.time_limit=5s. Read .*log"):
            _ = never.return_value
        assert soon.return_value == "soon"


def launcher(
    workers: Any = "auto", workers_per_gpu: int = 1, gpus_per_trial: int = 1, time_limit: Any = None
) -> LocalLauncher:
    return LocalLauncher(workers, workers_per_gpu, gpus_per_trial, time_limit)


def make_visible(monkeypatch: pytest.MonkeyPatch, visible: str | None, found: int) -> None:
    """Sets what ``CUDA_VISIBLE_DEVICES`` lists, and how many GPUs the machine seems to have."""
    monkeypatch.setattr(gpus, "count", lambda: found)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize(
    ("visible", "found", "settings", "problems"),
    [
        pytest.param(
            "0,1",
            2,
            {"workers": 0},
            ["hydra.launcher.workers must be auto or a whole number >= 1, but is 0. It counts the jobs"],
            id="no worker",
        ),
        pytest.param("0,1", 2, {"workers": "many"}, ["whole number >= 1, but is 'many'"], id="workers in words"),
        pytest.param("0,1", 2, {"workers": 1.5}, ["whole number >= 1, but is 1.5"], id="a worker and a half"),
        pytest.param("0,1", 2, {"workers": True}, ["whole number >= 1, but is True"], id="workers as a boolean"),
        pytest.param("7", 0, {}, ["but is '7', and this machine has none. Unset it"], id="no GPU that is listed"),
        pytest.param("0,1", 2, {"workers_per_gpu": "two"}, ["1 or auto, but is 'two'"], id="workers a GPU in words"),
        pytest.param(
            "0,1",
            2,
            {"workers_per_gpu": 0},
            ["hydra.launcher.workers_per_gpu must be at least 1 or auto, but is 0"],
            id="no worker a GPU",
        ),
        pytest.param(
            "0,1",
            2,
            {"gpus_per_trial": 0},
            ["hydra.launcher.gpus_per_trial must be at least 1, but is 0"],
            id="none a trial",
        ),
        pytest.param(
            "0,1",
            2,
            {"gpus_per_trial": 3},
            ["visible GPUs, but is 3, and CUDA_VISIBLE_DEVICES='0,1' lists 2. Lower it"],
            id="too many",
        ),
        pytest.param(
            None, 2, {"gpus_per_trial": 4}, ["GPUs, but is 4, and this machine has 2. Lower it"], id="not listed"
        ),
        pytest.param(
            None, 0, {"gpus_per_trial": 2}, ["GPUs, but is 2, and this machine has none. Lower it"], id="no GPU"
        ),
        pytest.param(
            "", 2, {"gpus_per_trial": 2}, ["but is 2, and CUDA_VISIBLE_DEVICES='' lists none. Lower it"], id="hidden"
        ),
        pytest.param(
            "0,1",
            2,
            {"time_limit": "soon"},
            [
                "hydra.launcher.time_limit must be seconds or a duration in h, m and s, and above 0, but is"
                " 'soon'. For an hour and a half write hydra.launcher.time_limit=1h30m"
            ],
            id="no time",
        ),
        pytest.param("0,1", 2, {"time_limit": 0}, ["above 0, but is 0"], id="no time at all"),
        pytest.param("0,7,9", 2, {}, ["but is '0,7,9', and there is no GPU 7 or 9. CUDA would"], id="absent"),
        pytest.param(
            "0,7",
            2,
            {"workers": -1, "workers_per_gpu": -2, "gpus_per_trial": 3, "time_limit": "1d"},
            [
                "whole number >= 1, but is -1",
                "workers_per_gpu must be at least 1 or auto, but is -2",
                "but is 3, and CUDA_VISIBLE_DEVICES='0,7' lists 2",
                "but is '1d'",
                "no GPU 7.",
            ],
            id="all at once",
        ),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, found: int, settings: dict[str, Any], problems: list[str]
) -> None:
    make_visible(monkeypatch, visible, found)
    with pytest.raises(UsageError) as caught:
        launcher(**settings).make_engine(preload=())
    assert len(caught.value.problems) == len(problems)
    for said, expected in zip(caught.value.problems, problems, strict=True):
        assert expected in said


@pytest.mark.parametrize(
    ("visible", "settings", "slots"),
    [
        pytest.param("0,1,2", {"workers": 2, "workers_per_gpu": 4}, 2, id="a number is that number"),
        pytest.param("0,1,2", {}, 3, id="one a GPU"),
        pytest.param("0,1,2", {"workers_per_gpu": 2}, 6, id="two a GPU"),
        pytest.param("0,1,2,3,4", {"gpus_per_trial": 2}, 2, id="one a pair of GPUs"),
        pytest.param("0,1,2,3,4", {"gpus_per_trial": 2, "workers_per_gpu": 3}, 6, id="three a pair"),
        pytest.param("", {"workers_per_gpu": 2}, 1, id="one without a GPU"),
    ],
)
def test_its_engine_has_a_slot_for_each_worker(
    monkeypatch: pytest.MonkeyPatch, visible: str, settings: dict[str, Any], slots: int
) -> None:
    make_visible(monkeypatch, visible, 8)
    with closing(launcher(**settings).make_engine(preload=())) as engine:
        assert engine.slots == slots


@pytest.mark.slow
def test_a_sweep_with_more_gpus_than_there_are_ends_before_it_starts(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", "model=tiny", "data=number_words", "lora.r=2,4"]
    result = subprocess.run(
        [*command, "hydra.launcher.gpus_per_trial=2"],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr == (
        "Error: hydra.launcher.gpus_per_trial must not exceed the number of visible GPUs, but is 2, and"
        " CUDA_VISIBLE_DEVICES='' lists none. Lower it (without GPUs to 1), or make more of them visible.\n"
    )
    assert not list(tmp_path.rglob("*"))


def test_scanning_it_imports_nothing_but_hydra() -> None:
    code = (
        "import sys, hydra_plugins.lowrung.local_launcher as _\n"
        "print(*{'lowrung.engine', 'cloudpickle', 'torch', 'optuna', 'mlflow'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    output = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert output.stdout == "\n"
