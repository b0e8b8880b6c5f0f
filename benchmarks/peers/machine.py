"""What the numbers depend on beside the task; nothing that names the machine or its user."""

import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowrung.config import signature
from lowrung.engine import cores

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "hydra-core", "optuna", "mlflow")


def about(others: Mapping[str, str]) -> dict[str, Any]:
    """The machine and the versions.

    Args:
        others: versions in the environment of Hydra 1.4.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": signature.git_commit(),
        "processor": _processor(),
        "cores": cores.usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_at_start": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": signature.versions(PACKAGES),
        "versions_of_hydra_optuna": dict(others),
    }


def _processor() -> str:
    """The processor's model, and whether it has AVX-512, which decides how fast a CPU trains."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    model = named.get("model name", platform.machine())
    widest = [name for name in ("avx512f", "avx2") if name in named.get("flags", "").split()]
    return f"{model}, {widest[0]}" if widest else model
