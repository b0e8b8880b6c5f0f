"""What made a run: versions, commit, machine; and the signature that says when two runs are the same."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from lowrung.config import schema, source
from lowrung.config.schema import Config
from lowrung.store.layout import CHECKOUT
from lowrung.version import __version__

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers", "numpy")
"""Their versions can change a result."""

RECORDED = (*PACKAGES, "hydra-core", "omegaconf", "optuna", "mlflow")
"""Their versions are written down beside each result."""

BITS = "bitsandbytes"
"""It computes with weights that are held in few bits, and need not be installed."""


def of(config: Config, *, model_fingerprint: str, data_fingerprint: str, threads: int) -> str:
    """A hash of all that determines a run's result: equal signatures are the same run (16 hex digits).

    Args:
        config: the run's.
        model_fingerprint: a hash of the base model's content.
        data_fingerprint: a hash of all examples.
        threads: CPU threads; sums are taken in another order with another number of them.
    """
    return schema.digest(
        {
            "config": determining(config),
            "model": model_fingerprint,
            "data": data_fingerprint,
            "threads": threads,
            "device": device_kind(),
            "versions": versions(used(config)),
            "source": source.digest(),
        }
    )


def of_base(config: Config, tokens: str, threads: int) -> str:
    """A hash of all that determines what a run's base model says of its examples, before anything is trained.

    Args:
        config: the run's.
        tokens: names the examples' folder below ``store/.tokens``, and so the examples, the model and the code.
        threads: CPU threads.
    """
    held = {name: value for name, value in dataclasses.asdict(config.model).items() if name not in ("path", "revision")}
    return schema.digest([tokens, held, config.lora.is_full, threads, device_kind(), versions(used(config))])


def used(config: Config) -> tuple[str, ...]:
    """The packages that compute a run: bitsandbytes too, where the base or the optimiser is held in few bits."""
    optimizer = str(config.train.sft.get("optim", ""))
    holds = any(part in optimizer for part in ("8bit", "paged", "lion", "ademamix", "bnb"))
    return (*PACKAGES, BITS) if holds or config.model.quantization != "none" else PACKAGES


def determining(config: Config) -> dict[str, Any]:
    """The part of a config that determines a run's result beside its model and data, whose content stands for them.

    No paths, no tracking, no field that goes unused.
    """
    values = dataclasses.asdict(config)
    for name in ("track", "sweeps", "study", "store"):
        del values[name]
    for name in ("path", "revision"):
        del values["model"][name]
    values["data"] = {name: values["data"][name] for name in ("max_length", "format", "metrics")}
    values["train"] = {k: v for k, v in values["train"].items() if k not in ("save_steps", "save_total_limit")}
    if config.train.learning_rate is not None:
        values["train"]["learning_rate"] *= values["train"].pop("rate_factor")
    if config.train.parallel == "none":
        del values["train"]["parallel"], values["train"]["ranks"]
    if "warmup_steps" in config.train.sft:
        del values["train"]["warmup_ratio"]
    if config.model.quantization != "nf4":
        del values["model"]["double_quantization"]
    if config.lora.init not in schema.DATA_INITS:
        del values["lora"]["init_examples"]
    if config.lora.is_full:
        values["lora"] = {"method": "full"}
    for name in ("keep_merged", "runs"):
        del values["verify"][name]
    if not config.verify.enabled:
        values["verify"] = {"enabled": False}
    else:
        used = schema.compared_dtypes(config)
        values["verify"]["tolerances"] = {k: v for k, v in values["verify"]["tolerances"].items() if k in used}
        if config.verify.forgetting:
            values["verify"]["general_text"] = platform.python_version()  # which brings the text
    return values


def environment(*, model_fingerprint: str, data_fingerprint: str, tokens: str, threads: int) -> dict[str, Any]:
    """What a person wants to know a year later; ``tokens`` names the examples' folder below ``store/.tokens``."""
    return {
        "lowrung": __version__,
        "commit": git_commit(),
        "versions": versions(recorded()),
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_kind(),
        "threads": threads,
        "model_fingerprint": model_fingerprint,
        "data_fingerprint": data_fingerprint,
        "tokens": tokens,
        "source": source.digest(),
    }


@functools.cache
def recorded() -> tuple[str, ...]:
    """The packages whose versions are written down; bitsandbytes too, where it is installed."""
    return (*RECORDED, BITS) if importlib.util.find_spec(BITS) else RECORDED


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The installed versions, asked without importing anything."""
    return {name: _version(name) for name in packages}


@functools.cache
def _version(package: str) -> str:
    return importlib.metadata.version(package)


@functools.cache
def git_commit() -> str:
    """The checkout's commit, with ``+changes`` where files differ from it; ``unknown`` without a checkout or git."""
    if CHECKOUT is None:  # site-packages may lie in a repository of the user's, whose commit says nothing of ours
        return "unknown"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(CHECKOUT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        changes = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


JOBS_DEVICE: ContextVar[str | None] = ContextVar("jobs_device", default=None)
"""What the jobs of this coordinator compute on, where a scheduler knows and this machine, a login node, may differ."""


@contextlib.contextmanager
def jobs_on(device: str | None) -> Iterator[None]:
    """Has jobs compute on this device while the block runs; None leaves that to this machine."""
    before = JOBS_DEVICE.set(device)
    try:
        yield
    finally:
        JOBS_DEVICE.reset(before)


def device_kind() -> str:
    """``cuda`` where an NVIDIA GPU is visible, else ``cpu``; asked without touching CUDA. See `JOBS_DEVICE`."""
    if (known := JOBS_DEVICE.get()) is not None:
        return known
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/proc/driver/nvidia/gpus").exists()
    return "cuda" if has_gpu and visible not in ("", "-1") else "cpu"
