"""Base models: the embedded ones built into the cache, and any local folder."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lowrung import atomic
from lowrung.errors import UsageError
from lowrung.finetune import embedded
from lowrung.layout import cache_folder

EMBEDDED: dict[str, Callable[[Path], None]] = {"smollm2_135m": embedded.build_smollm2_135m, "tiny": embedded.build_tiny}
"""The models that come with lowrung, by name, each with what writes it to a folder."""


def locate(path: str) -> Path:
    """The folder of a model, as an absolute path; an embedded model is built into the cache first.

    Args:
        path: ``embedded:NAME`` or a folder.

    Raises:
        UsageError: when there is no such model.
    """
    if path.startswith("embedded:"):
        return _build(path.removeprefix("embedded:"))
    folder = Path(path).expanduser().absolute()
    if not (folder / "config.json").is_file():
        missing = "holds no config.json" if folder.is_dir() else "does not exist"
        embedded_names = ", ".join(f"embedded:{name}" for name in EMBEDDED)
        raise UsageError(
            f"model.path must be a folder that save_pretrained wrote, or one of {embedded_names},"
            f" but is {path!r}, and {folder} {missing}."
        )
    return folder


def _build(name: str) -> Path:
    if name not in EMBEDDED:
        raise UsageError(f"model.path must name an embedded model ({', '.join(EMBEDDED)}), but is 'embedded:{name}'.")
    folder = cache_folder() / "models" / f"{name}-v{embedded.VERSION}"
    if folder.exists():
        return folder
    with atomic.lock(folder.parent / f".{folder.name}.lock", wait=True):
        if not folder.exists():
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
            try:
                print(f"building {name} into {folder}, once", flush=True)
                with quiet():
                    EMBEDDED[name](aside)
                aside.chmod(0o755)
                os.replace(aside, folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return folder


def fingerprint(folder: Path) -> str:
    """A hash of a model folder's content: config, tokenizer and weights, whatever the folder is called."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt"):
            with file.open("rb") as stream:
                total.update(f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()};".encode())
    return total.hexdigest()[:16]


def device() -> torch.device:
    """Where a run computes: the one GPU that its process sees, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def dtype_for(name: str, place: torch.device) -> torch.dtype:
    """The torch dtype for a config's name; ``auto`` is bfloat16 on a GPU that has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def load_model(folder: Path, dtype: torch.dtype, place: torch.device) -> PreTrainedModel:
    """Loads a causal language model's weights, safetensors only, in evaluation mode."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    return model.to(place).eval()  # type: ignore[no-any-return, arg-type]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Loads a tokenizer; one without a padding token pads with its end-of-sequence token."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer  # type: ignore[no-any-return]


def skeleton(folder: Path) -> PreTrainedModel:
    """The model without weights, on the meta device: names and shapes in milliseconds."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), trust_remote_code=False)  # type: ignore[no-any-return]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the progress bars of transformers while the block runs."""
    showing = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if showing:
            transformers_logging.enable_progress_bar()
