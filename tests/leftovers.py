"""What the tests of a module may leave in their process: nothing that another module's tests would see.

Only in one order of files would such a test fail, and pytest's workers have another order on each machine.
"""

import logging
import os
import signal
import sys
import threading
from typing import Any

from lowrung.store.layout import ROOT

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)
"""SIGALRM is pytest-timeout's."""


class Logging:
    """How logging is set up now: a command in the tests' own process sets up Hydra's, or disables all that there are.

    It leaves a log of its own at the root, and the captured stream as a screen.
    """

    def __init__(self) -> None:
        self._handlers, self._level = list(logging.root.handlers), logging.root.level
        self._disabled = {one for one in _loggers() if one.disabled}

    def put_back(self) -> None:
        """Has it so again; loggers that are new since then are not disabled."""
        root = logging.root
        for handler in [one for one in root.handlers if one not in self._handlers]:
            root.removeHandler(handler)
            handler.close()
        root.handlers[:] = self._handlers  # those of pytest, too, which Hydra takes off
        root.setLevel(self._level)
        for logger in _loggers():
            logger.disabled = logger in self._disabled


class HydrasVersion:
    """The version base of Hydra, which outlasts it: by that its jobs change to their folder, or stay."""

    def __init__(self) -> None:
        self._base = _version_base()

    def put_back(self) -> None:
        """Has it so again; where Hydra has come since then, as it is in a fresh process."""
        if module := sys.modules.get("hydra.version"):
            base = module._UNSPECIFIED_ if self._base is None else self._base
            module.VersionBase.instance().version_base = base  # asked for again: a job puts a copy in its place


def _version_base() -> Any:
    module = sys.modules.get("hydra.version")
    return module.VersionBase.instance().version_base if module else None


def stop_fork_server() -> None:
    """Ends the process that this one forks jobs from, where there is one.

    It has imported what the first engine of the process asked for. To the jobs of another module it would be of no use:
    each rank of a run of several took 7 s to import what the server of these tests has for all of them.
    """
    if module := sys.modules.get("multiprocessing.forkserver"):
        module._forkserver._stop()


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(one for one in known if isinstance(one, logging.Logger))]


def seen() -> dict[str, Any]:
    """What a test can see of the process beside its own objects, by name."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "working folder": os.getcwd(),  # noqa: PTH109  (it may be gone)
        "umask": mask,
        "sys.argv": list(sys.argv),
        "sys.path": [folder for folder in sys.path if folder != str(ROOT)],  # pytest puts it first again for a package
        "excepthooks": (sys.excepthook, threading.excepthook),
        "signal handlers": {number.name: signal.getsignal(number) for number in SIGNALS},
        "logging": logging.root.manager.disable,
        **_of_libraries(),
    }


def _of_libraries() -> dict[str, Any]:
    """The same of the libraries that have been imported."""
    found: dict[str, Any] = {}
    if torch := sys.modules.get("torch"):
        found["torch"] = (
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
        )
        found["torch.distributed"] = torch.distributed.is_initialized()
    if hydra := sys.modules.get("hydra.core.global_hydra"):
        found["Hydra"] = hydra.GlobalHydra().is_initialized()
    if fluent := sys.modules.get("mlflow.tracking.fluent"):
        found["MLflow's run"] = fluent.active_run()
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is other than it was, in words; what only came with a library is none."""
    return [
        f"{name}: {before[name]!r} -> {value!r}"
        for name, value in after.items()
        if name in before and value != before[name]
    ]
