"""Base models: the embedded ones built into the cache, those of the hub, and any local folder."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import textwrap
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
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from lowrung import atomic
from lowrung.errors import UsageError, install
from lowrung.finetune import added_tokens, embedded, hub, quantization
from lowrung.layout import cache_folder

EMBEDDED: dict[str, Callable[[Path], None]] = {
    "smollm2_135m": embedded.build_smollm2_135m,
    "tiny": embedded.build_tiny,
    "tiny_gpt2": embedded.build_tiny_gpt2,
}
"""The models that come with lowrung, by name, each with what writes it to a folder."""

CONVERT = (
    "A pickle can run any code when it is loaded. If you trust it, convert it once, to another folder:"
    " `AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)`, and the same with AutoTokenizer."
)
FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


@dataclasses.dataclass(frozen=True)
class Base:
    """A base model and how it is loaded; `lowrung.schema.ModelConf` says what the fields mean."""

    path: str
    revision: str | None = None
    dtype: str = "auto"
    attn_implementation: str | None = None
    quantization: str = "none"
    double_quantization: bool = True
    device_map: str | None = None
    trust_remote_code: bool = False
    added_tokens: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Takes the tokens as a tuple, so that equal bases are one key."""
        object.__setattr__(self, "added_tokens", tuple(self.added_tokens))

    @property
    def folder(self) -> Path:
        """Where the model lies; built or fetched first where it must be (see `locate`)."""
        return locate(self.path, self.revision, trust_remote_code=self.trust_remote_code)

    @property
    def origin(self) -> tuple[str, str | None]:
        """What an adapter names as its base: id and commit of a hub model, else the absolute folder and None."""
        folder = self.folder
        return hub.commit(folder) or (str(folder), None)


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


def fingerprint(folder: Path) -> str:
    """A hash of a model folder's content: config, tokenizer, weights and code, whatever the folder is called.

    In the hub's cache id and commit stand for the content, which is not read.
    """
    total = hashlib.sha256()
    if commit := hub.commit(folder):
        total.update("@".join(commit).encode())
        return total.hexdigest()[:16]
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt", ".tiktoken", ".py"):
            with file.open("rb") as stream:
                total.update(f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()};".encode())
    return total.hexdigest()[:16]


# -- loading -----------------------------------------------------------------------------------------------------------


def device() -> torch.device:
    """Where a run computes: the one GPU that its process sees, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def dtype_for(name: str, place: torch.device) -> torch.dtype:
    """The torch dtype for a config's name; ``auto`` is bfloat16 on a GPU that has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def load_base(base: Base, place: torch.device, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Loads a base model's weights, safetensors only, in evaluation mode, with rows for ``base.added_tokens``.

    With ``base.device_map``, its ``hf_device_map`` says what lies where.

    Args:
        base: which model, and how.
        place: the device it is put on, unless ``base.device_map`` says otherwise.
        dtype: instead of ``base.dtype``; of a quantised model, the precision of all that is not quantised.
    """
    dtype = dtype or dtype_for(base.dtype, place)
    is_quantized = base.quantization != "none"
    options: dict[str, Any] = {"device_map": base.device_map}
    if is_quantized:
        options["quantization_config"] = quantization.config(base.quantization, dtype, double=base.double_quantization)
        options["device_map"] = base.device_map or {"": place}  # weights are quantised where they will be
    with quiet():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            base.folder,
            dtype=dtype,
            attn_implementation=base.attn_implementation,
            use_safetensors=True,
            trust_remote_code=base.trust_remote_code,
            **options,
        )
    if is_quantized:
        quantization.settle(model)
    _make_room(model, base)
    if options["device_map"] is None:
        model.to(place)  # type: ignore[arg-type]
    if base.device_map and not hasattr(model, "hf_device_map"):  # transformers notes only what it spread
        model.hf_device_map = {"": model.device}  # type: ignore[assignment]
    model.eval()
    return model


def _make_room(model: PreTrainedModel, base: Base) -> None:
    if base.added_tokens:
        added_tokens.grow(model, max(added_tokens.numbers(tokenizer_of(base), base.added_tokens)) + 1)


def load_model(
    folder: Path, dtype: torch.dtype, place: torch.device, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Loads a causal language model's weights, safetensors only, in evaluation mode."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    return model.to(place).eval()  # type: ignore[no-any-return, arg-type]


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads a tokenizer; one without a padding token pads with its end-of-sequence token."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer  # type: ignore[no-any-return]


def tokenizer_of(base: Base) -> PreTrainedTokenizerBase:
    """A base's tokenizer, with ``base.added_tokens``."""
    tokenizer = load_tokenizer(base.folder, trust_remote_code=base.trust_remote_code)
    added_tokens.add(tokenizer, base.added_tokens)
    return tokenizer


def added_rows(base: Base) -> range:
    """The rows of embedding and head that are not the base's: of ``base.added_tokens``, and any that it lacks."""
    if not base.added_tokens:
        return range(0)
    numbers = added_tokens.numbers(tokenizer_of(base), base.added_tokens)
    own = added_tokens.row_count(skeleton(dataclasses.replace(base, added_tokens=())))
    return range(min(*numbers, own), max(numbers) + 1)


def skeleton(base: Base) -> PreTrainedModel:
    """The base without weights, on the meta device: names and shapes in milliseconds."""
    model = _skeleton(base.folder, base.trust_remote_code, None)
    _make_room(model, base)
    return model


def _skeleton(folder: Path, trust_remote_code: bool, attention: str | None) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, trust_remote_code=trust_remote_code
        )
    return model


# -- what cannot be ----------------------------------------------------------------------------------------------------


def problems(base: Base) -> list[str]:
    """What stands in the way of loading a base model with its settings; no weights are loaded.

    A hub model is fetched for this.
    """
    found = [*_quantization_problems(base), *_flash_problems(base)]
    try:
        folder = base.folder
    except UsageError as error:
        return [*found, *error.problems]
    if base.revision is not None and hub.commit(folder) is None:
        found.append(f"model.revision={base.revision} needs a hub model, but model.path={base.path} is none. Drop it.")
    return [*found, *_folder_problems(base, folder)]


def _quantization_problems(base: Base) -> Iterator[str]:
    if base.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        yield (
            f"model.quantization={base.quantization} needs the package bitsandbytes, which is not installed."
            f" {install('quantization')}"
        )


def _flash_problems(base: Base) -> Iterator[str]:
    attention = base.attn_implementation or ""
    package = FLASH_PACKAGES.get(attention)
    if package is None:
        return
    lacking = [f"the package {package}"] if importlib.util.find_spec(package) is None else []
    lacking += [] if torch.cuda.is_available() else ["an NVIDIA GPU"]
    if lacking:
        yield (
            f"model.attn_implementation={attention} needs {' and '.join(lacking)}, which this machine does not have."
            " Leave it out, or use sdpa."
        )


def _folder_problems(base: Base, folder: Path) -> Iterator[str]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        yield f"model.path must have a config.json that is JSON, but {folder / 'config.json'} is not: {error}."
        return
    if not isinstance(config, dict):
        yield f"model.path must have a config.json that is a mapping, but {folder / 'config.json'} is not."
        return
    yield from _weight_problems(config, folder)
    if code_problem := _remote_code_problem(base, config, folder):
        yield code_problem
    else:  # a tokenizer is chosen by the config: one mistake, one message
        yield from list(_architecture_problems(base, config, folder)) or _tokenizer_problems(base, folder)


def _weight_problems(config: dict[str, Any], folder: Path) -> Iterator[str]:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
    if next(folder.glob("*.safetensors"), None) is None:
        rule = f"model.path must have its weights as safetensors, but {folder} has"
        yield f"{rule} only pickles ({', '.join(pickles)}). {CONVERT}" if pickles else f"{rule} none."
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        yield (
            f"model.path must have weights that are not quantised, but those in {folder} are ({method}). Take the"
            " original model; model.quantization quantises it while loading."
        )


def _remote_code_problem(base: Base, config: dict[str, Any], folder: Path) -> str | None:
    brings_code = "AutoModelForCausalLM" in (config.get("auto_map") or {})
    if base.trust_remote_code or not brings_code or config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    return (
        f"model.path={base.path} brings Python code of its own, which runs only with model.trust_remote_code=true"
        " (after training: --trust-remote-code)."
        f" Read the code first: it can do whatever you can. Its config.json is in {folder}."
    )


def _architecture_problems(base: Base, config: dict[str, Any], folder: Path) -> Iterator[str]:
    named = config.get("architectures") or []
    if named and not base.trust_remote_code and not {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}.intersection(named):
        yield (
            f"model.path must be a causal language model, which continues text, but config.json in {folder} names"
            f" {', '.join(named)}."
        )
        return
    attention = None if list(_flash_problems(base)) else base.attn_implementation  # one mistake, one message
    try:
        _skeleton(folder, base.trust_remote_code, attention)
    except Exception as error:  # whatever a foreign config, or foreign code, makes transformers raise
        yield f"model.path={base.path} cannot be built from config.json in {folder}: {_in_short(error)}"


def _tokenizer_problems(base: Base, folder: Path) -> Iterator[str]:
    try:
        tokenizer = load_tokenizer(folder, trust_remote_code=base.trust_remote_code)
    except Exception as error:  # as above
        yield (
            f"model.path must have a tokenizer, but none can be loaded from {folder}: {_in_short(error)}"
            " Save it beside the weights with its save_pretrained."
        )
        return
    vocabulary = tokenizer.get_vocab() if base.added_tokens else {}
    if known := [token for token in base.added_tokens if token in vocabulary]:
        yield (
            f"model.added_tokens must be new to the model, but {base.path} has {', '.join(known)} already. Leave them"
            " out; lora.trainable_token_indices trains tokens that a model has"
            f" ({', '.join(str(vocabulary[token]) for token in known)})."
        )


def _in_short(error: Exception) -> str:
    return textwrap.shorten(str(error), 300, placeholder=" …") or type(error).__name__


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
