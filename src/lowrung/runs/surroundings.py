"""What a preflight depends on beside its arguments and files: code, libraries, folders, devices."""

import hashlib
import os
import platform
import re
import sys
from pathlib import Path

from lowrung.config import machine, signature
from lowrung.config.schema import DataConf, ModelConf, SourceConf
from lowrung.store import layout

VARIABLES = (
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HOME", "HF_HUB_CACHE"),
    *("HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HOME", "PYTHONPATH", "CUDA_VISIBLE_DEVICES"),
)
"""Where models, datasets and modules are searched for, and what computes."""


def stand_still(base: ModelConf, data: DataConf) -> bool:
    """Whether a model and data are what their files are.

    A branch of the hub may have moved, a dataset of the hub too, and a model's own code may read anything.
    """
    sources = data.sources if data.name == "mixture" else [data]
    is_pinned = not _is_of_hub(base) or _is_commit(base.revision) or _is_offline()
    return is_pinned and not base.trust_remote_code and not any(_is_elsewhere(source) for source in sources)


def of(base: ModelConf) -> list[object]:
    """All of it, as JSON; the same in all processes of a sweep on this machine.

    Args:
        base: the model; a folder that has the name of a hub's model is taken before that one.
    """
    variables = {name: os.environ.get(name) for name in VARIABLES}
    folders = [str(Path.cwd()), str(layout.cache_folder()), _is_of_hub(base)]
    computes = [platform.machine(), signature.device_kind(), *machine.gpus(), sys.version, sys.executable]
    return [variables, folders, computes, _installed(), _code()]


def _is_of_hub(base: ModelConf) -> bool:
    folder = Path(base.path).expanduser().absolute()
    return not (base.path.startswith("embedded:") or (folder / "config.json").is_file())


def _is_commit(revision: str | None) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


def _is_offline() -> bool:
    """Whether the hub is not asked; the words are huggingface_hub's."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def _is_elsewhere(source: SourceConf) -> bool:
    """Whether a dataset is the hub's, or a local folder whose card may name files elsewhere."""
    if source.name != "hub":
        return False
    folder = Path(str(source.path)).absolute()
    card = folder / "README.md"
    return not folder.is_dir() or (card.is_file() and b"data_files" in card.read_bytes())


def _installed() -> list[str]:
    """Name and version of each installed package, from the names of their folders: 2 ms where metadata takes 200."""
    ends = (".dist-info", ".egg-info")
    folders = [Path(folder) for folder in dict.fromkeys(sys.path) if Path(folder).is_dir()]
    return sorted({path.name for folder in folders for path in folder.iterdir() if path.name.endswith(ends)})


def _code() -> str:
    """A hash of lowrung's own files: a preflight reads settings, words and checks of all packages."""
    total, package = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        total.update(f"{file.relative_to(package)}:".encode() + file.read_bytes())
    return total.hexdigest()
