"""What the tests of a module may leave in their process: nothing that another module's tests would see.

Only in one order of files would such a test fail, and pytest's workers have another order on each machine.
"""

import logging
import os
import signal
import sys
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)
"""SIGALRM is pytest-timeout's."""


def seen() -> dict[str, Any]:
    """What a test can see of the process beside its own objects, by name."""
    mask = os.umask(0)
    os.umask(mask)
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    return {
        "working folder": os.getcwd(),  # noqa: PTH109  (it may be gone)
        "umask": mask,
        "sys.argv": list(sys.argv),
        "sys.path": list(sys.path),
        "excepthooks": (sys.excepthook, threading.excepthook),
        "signal handlers": {number.name: signal.getsignal(number) for number in SIGNALS},
        "root logger": (logging.root.level, logging.root.disabled, logging.root.manager.disable),
        "disabled loggers": sorted(one.name for one in loggers if one.disabled),
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
