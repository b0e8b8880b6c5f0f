"""Base models: the embedded ones built into the cache, those of the hub, and any local folder."""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils import logging as transformers_logging

from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError
from lowrung.finetune.models import added_tokens, embedded, hub, quantization
from lowrung.store import atomic, fingerprints
from lowrung.store.layout import cache_folder

EMBEDDED: dict[str, Callable[[Path], None]] = {
    "smollm2_135m": embedded.build_smollm2_135m,
    "tiny": embedded.build_tiny,
    "tiny_gpt2": embedded.build_tiny_gpt2,
}
"""The models that come with lowrung, by name, each with what writes it to a folder."""


# -- where models lie --------------------------------------------------------------------------------------------------


def locate(path: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Path:
    """The folder of a model, as an absolute path; it is built or fetched into a cache first where it must be.

    Args:
        path: ``embedded:NAME``, a folder, or a hub id (``name`` or ``owner/name``) where there is no such folder.
        revision: branch, tag or commit of a hub model; None is its main branch.
        trust_remote_code: whether a hub model's Python files are fetched too.

    Raises:
        UsageError: when there is no such model, or it cannot be fetched.
    """
    if path.startswith("embedded:"):
        return _build(path.removeprefix("embedded:"))
    folder = _as_folder(path)
    if (folder / "config.json").is_file():
        return folder
    if not folder.exists() and hub.is_id(path):
        return hub.fetch(path, revision, trust_remote_code, Path(constants.HF_HUB_CACHE), _embedded_names())
    missing = "holds no config.json" if folder.is_dir() else "does not exist"
    raise UsageError(
        f"model.path must be a folder that save_pretrained wrote, a hub id, or one of {_embedded_names()},"
        f" but is {path!r}, and {folder} {missing}."
    )


def folder_of(base: ModelConf) -> Path:
    """The folder of a base model, which is built or fetched first where it must be; see `locate`."""
    return locate(base.path, base.revision, trust_remote_code=base.trust_remote_code)


def has_weights(folder: Path) -> bool:
    """Whether a model's folder holds weights that are ever loaded."""
    return next(folder.glob("*.safetensors"), None) is not None


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds any file of a tokenizer."""
    ends = ("*token*", "*vocab*", "*.model", "*.tiktoken")
    return any(next(folder.glob(end), None) is not None for end in ends)


def without_weights(base: ModelConf) -> ModelConf:
    """The base as a folder that need not hold its weights: of a hub model, config and tokenizer alone are fetched.

    Raises:
        UsageError: when there is no such model, or it cannot be fetched.
    """
    if base.path.startswith("embedded:") or _as_folder(base.path).exists() or not hub.is_id(base.path):
        return base
    cache = Path(constants.HF_HUB_CACHE)
    folder = hub.fetch(base.path, base.revision, base.trust_remote_code, cache, _embedded_names(), weights=False)
    return dataclasses.replace(base, path=str(folder), revision=None)


def origin_of(base: ModelConf) -> tuple[str, str | None]:
    """What an adapter names as its base: id and commit of a hub model, else the absolute folder and None."""
    folder = folder_of(base)
    return hub.commit(folder) or (str(folder), None)


def _as_folder(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _embedded_names() -> str:
    return ", ".join(f"embedded:{name}" for name in EMBEDDED)


def _build(name: str) -> Path:
    if name not in EMBEDDED:
        raise UsageError(f"model.path must name an embedded model ({', '.join(EMBEDDED)}), but is 'embedded:{name}'.")
    folder = cache_folder() / "models" / f"{name}-v{embedded.VERSION}"
    if folder.exists():
        return folder

    def build(aside: Path) -> None:
        print(f"building {name} into {folder}, once", flush=True)
        with quiet():
            EMBEDDED[name](aside)

    atomic.make_folder_once(folder, build)
    return folder


def fingerprint(folder: Path, records: Path | None = None) -> str:
    """A hash of a model folder's content: config, tokenizer, weights and code, whatever the folder is called.

    For a model in the hub's cache, its id and commit are hashed instead; the content is not read.

    Args:
        folder: the model's.
        records: where the digests of files are kept; see `fingerprints.sha256`.
    """
    total = hashlib.sha256()
    if commit := hub.commit(folder):
        total.update("@".join(commit).encode())
        return total.hexdigest()[:16]
    suffixes = (".json", ".safetensors", ".jinja", ".model", ".txt", ".tiktoken", ".py")
    files = [file for file in sorted(folder.iterdir()) if file.suffix in suffixes]
    for file, digest in fingerprints.sha256(files, records).items():
        total.update(f"{Path(file).name}:{digest};".encode())
    return total.hexdigest()[:16]


# -- loading -----------------------------------------------------------------------------------------------------------


def prepare() -> None:
    """Makes what transformers makes when it first loads a model, for all that this process forks: 0.14 s."""
    from transformers import conversion_mapping  # no part of its documented face: only this fails without it

    conversion_mapping.get_checkpoint_conversion_mapping("llama")


def device() -> torch.device:
    """The device that this process computes on: its GPU (the first that it sees, or that of its rank), else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)  # type: ignore[no-untyped-call]


def dtype_for(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype for a config's name; ``auto`` is bfloat16 on a GPU that has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def load_base(
    base: ModelConf, device: torch.device, *, dtype: torch.dtype | None = None, shards: int = 1
) -> PreTrainedModel:
    """Loads a base model's weights, safetensors only, in evaluation mode, with rows for ``base.added_tokens``.

    With ``base.device_map``, its ``hf_device_map`` says which part is on which device.

    Args:
        base: the model, and how it is loaded.
        device: the device that it is put on, unless ``base.device_map`` says otherwise.
        dtype: instead of ``base.dtype``; of a quantised model, the precision of all that is not quantised.
        shards: the ranks that the weights are divided among by FSDP2, as transformers loads them: no rank ever holds
            all. Each is to make this call, and every forward pass. The weights are frozen.
    """
    dtype = dtype or dtype_for(base.dtype, device)
    is_quantized = base.quantization != "none"
    options: dict[str, Any] = {"device_map": base.device_map}
    if is_quantized:
        options["quantization_config"] = quantization.config(base.quantization, dtype, double=base.double_quantization)
        options["device_map"] = base.device_map or {"": device}  # weights are quantised where they will be
    if shards > 1:
        options["distributed_config"] = DistributedConfig(fsdp_size=shards)
    with quiet():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder_of(base),
            dtype=dtype,
            attn_implementation=base.attn_implementation,
            use_safetensors=True,
            trust_remote_code=base.trust_remote_code,
            **options,
        )
    if shards > 1:  # before the first pass, after which some are whole: to freeze those leaves the parts as they are
        model.requires_grad_(False)
    if is_quantized:
        quantization.settle(model)
    _make_room(model, base)
    if options["device_map"] is None and shards == 1:
        model.to(device)  # type: ignore[arg-type]
    if base.device_map and not hasattr(model, "hf_device_map"):  # transformers notes only what it spread
        model.hf_device_map = {"": model.device}  # type: ignore[assignment]
    model.eval()
    return model


def _make_room(model: PreTrainedModel, base: ModelConf) -> None:
    if base.added_tokens:
        added_tokens.grow(model, max(_added_numbers(base, added_tokens.row_count(model))) + 1)


def load_model(
    folder: Path, dtype: torch.dtype, device: torch.device, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Loads a causal language model's weights, safetensors only, in evaluation mode."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    return model.to(device).eval()  # type: ignore[no-any-return, arg-type]


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads a tokenizer; one without a padding token pads with its end-of-sequence token."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer  # type: ignore[no-any-return]


def tokenizer_of(base: ModelConf) -> PreTrainedTokenizerBase:
    """The tokenizer of a base, with ``base.added_tokens`` in it."""
    tokenizer = load_tokenizer(folder_of(base), trust_remote_code=base.trust_remote_code)
    added_tokens.add(tokenizer, base.added_tokens)
    return tokenizer


def added_rows(base: ModelConf) -> range:
    """The rows of embedding and head that are not the base's: of ``base.added_tokens``, and any that it lacks."""
    if not base.added_tokens:
        return range(0)
    own = added_tokens.row_count(skeleton(dataclasses.replace(base, added_tokens=[])))
    numbers = _added_numbers(base, own)
    return range(min(*numbers, own), max(numbers) + 1)


def _added_numbers(base: ModelConf, own_rows: int) -> Sequence[int]:
    """The numbers of the added tokens; without a tokenizer, in a plan, those behind the base's own rows."""
    if not has_tokenizer(folder_of(base)):
        return range(own_rows, own_rows + len(base.added_tokens))
    return added_tokens.numbers(tokenizer_of(base), base.added_tokens)


def config_of(base: ModelConf) -> Any:
    """The config of a base, as transformers reads it."""
    return AutoConfig.from_pretrained(folder_of(base), trust_remote_code=base.trust_remote_code)


def skeleton(base: ModelConf) -> PreTrainedModel:
    """The base without weights, on the meta device: names and shapes in milliseconds."""
    model = plain_skeleton(folder_of(base), trust_remote_code=base.trust_remote_code)
    _make_room(model, base)
    return model


def is_divisible(base: ModelConf) -> bool:
    """Whether transformers knows the blocks of a base, block by block, to divide their weights; see `load_base`.

    Experts that are modules of their own are not to be divided: ranks whose tokens go to others would wait for ever.
    """
    model = skeleton(base)
    names = {re.sub(r"\.\d+\b", ".*", name) for name, _ in model.named_modules()}
    if any(name.endswith("experts.*") for name in names):
        return False
    return any(name.endswith(".*") and name in names for name in model.fsdp_plan)


def plain_skeleton(folder: Path, *, trust_remote_code: bool, attention: str | None = None) -> PreTrainedModel:
    """A folder's model without weights, on the meta device, with the attention of this name."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, trust_remote_code=trust_remote_code
        )
    return model


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
