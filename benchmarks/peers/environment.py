"""The environment of Hydra 1.4's Optuna sweeper: its own Hydra and OmegaConf, and lowrung's copies of all the rest."""

import fnmatch
import hashlib
import importlib.metadata
import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from lowrung.store import atomic, layout

PINNED = {"hydra-core": "1.4.0rc3", "hydra-optuna-sweeper": "1.4.0rc3", "omegaconf": "2.4.1rc1"}
"""The pre-release, as of November 2026, and the OmegaConf that it asks for."""

NOT_SHARED = ("hydra*", "omegaconf*", "lowrung*", "__editable__*", "*.pth", "__pycache__")
"""What Hydra 1.4 must not see of lowrung's environment: Hydra 1.3, its plugins, and lowrung."""


def python() -> Path:
    """The environment's Python; the environment is made where it is not there yet."""
    folder = place()
    atomic.make_folder_once(folder, _make)
    return folder / "bin" / "python"


def place() -> Path:
    """Where the environment is, in lowrung's cache; its name says its versions and all that it shares."""
    shared = hashlib.sha256(json.dumps([str(_packages()), *_shared()]).encode()).hexdigest()[:8]
    number = ".".join(map(str, sys.version_info[:2]))
    return layout.cache_folder() / "benchmarks" / f"hydra-{PINNED['hydra-core']}-python-{number}-{shared}"


def versions() -> dict[str, str]:
    """The versions in it, of what it does not share, and of the Optuna that it does."""
    return {**PINNED, "optuna": importlib.metadata.version("optuna")}


def _make(folder: Path) -> None:
    venv.create(folder, with_pip=False, symlinks=True)
    pins = [f"{name}=={version}" for name, version in PINNED.items()]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", *pins], check=True)
    shared = folder / "shared"
    shared.mkdir()
    for name in _shared():
        (shared / name).symlink_to(_packages() / name)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "shared.pth").write_text("../../../shared\n", encoding="utf-8")  # relative to this file's folder


def _shared() -> list[str]:
    names = (entry.name for entry in _packages().iterdir())
    return sorted(name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in NOT_SHARED))


def _packages() -> Path:
    return Path(sysconfig.get_paths()["purelib"])
