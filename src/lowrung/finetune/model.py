"""Base models: the embedded ones built into the cache, those of the hub, and any local folder."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its HTTP client's
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, validate_repo_id  # type: ignore[attr-defined]
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from lowrung import atomic
from lowrung.errors import UsageError
from lowrung.finetune import embedded
from lowrung.layout import cache_folder

EMBEDDED: dict[str, Callable[[Path], None]] = {
    "smollm2_135m": embedded.build_smollm2_135m,
    "tiny": embedded.build_tiny,
    "tiny_gpt2": embedded.build_tiny_gpt2,
}
"""The models that come with lowrung, by name, each with what writes it to a folder."""

FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What is fetched of a hub model: config, safetensors and tokenizer; never a pickle, and code only where trusted."""

NOT_FETCHED = ("*/*", "consolidated*")
"""Folders hold other formats; Mistral's ``consolidated.safetensors`` are the same weights a second time."""

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
INSTALL_QUANTIZATION = (
    "Run `pip install 'lowrung[quantization]'`, or in a checkout"
    " `.venv/bin/pip install -c constraints.txt -e '.[quantization]'`."
)
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

    @property
    def folder(self) -> Path:
        """Where the model lies; built or fetched first where it must be (see `locate`)."""
        return locate(self.path, self.revision, trust_remote_code=self.trust_remote_code)

    @property
    def origin(self) -> tuple[str, str | None]:
        """What an adapter names as its base: id and commit of a hub model, else the absolute folder and None."""
        folder = self.folder
        return _hub_commit(folder) or (str(folder), None)


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
    if not folder.exists() and _may_be_hub_id(path):
        return _fetch(path, revision, trust_remote_code, Path(constants.HF_HUB_CACHE))
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


def _may_be_hub_id(path: str) -> bool:
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


@functools.cache  # one answer a process: a branch may move while it works
def _fetch(repo: str, revision: str | None, trust_remote_code: bool, cache: Path) -> Path:
    """A hub model's snapshot folder; what the cache lacks is downloaded, unless HF_HUB_OFFLINE=1 is set."""
    code = ("*.py",) if trust_remote_code else ()
    if not _snapshots(repo, cache).exists():
        print(f"fetching {repo} into {cache}, once", flush=True)
    try:
        with contextlib.nullcontext() if sys.stderr.isatty() else disable_progress_bars():
            folder = Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    cache_dir=cache,
                    allow_patterns=[*FETCHED, *code],
                    ignore_patterns=list(NOT_FETCHED),
                )
            )
    except (HTTPError, OSError) as error:
        # Not chained: what an HTTP client says of a request may hold its headers, and so a token.
        raise UsageError(_hub_problem(repo, revision, cache, error)) from None
    for name, what in (("config.json", "config.json"), ("*.safetensors", "weights as safetensors")):
        if next(folder.glob(name), None) is None:
            raise UsageError(
                f"model.path must be a model with {what}, but https://huggingface.co/{repo} has none in"
                f" {revision or 'main'}. Take another revision (model.revision) or model: other formats are not loaded,"
                " since a pickle can run any code."
            )
    return folder


def _snapshots(repo: str, cache: Path) -> Path:
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots"


def _hub_commit(folder: Path) -> tuple[str, str] | None:
    """Id and commit of a model in the hub's cache, or None of any other folder."""
    repository = folder.parent.parent
    cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    if folder.parent.name != "snapshots" or repository.parent != cache or not repository.name.startswith("models--"):
        return None
    return repository.name.removeprefix("models--").replace("--", "/"), folder.name


def _hub_problem(repo: str, revision: str | None, cache: Path, error: Exception) -> str:
    """Why a model could not be fetched, and what to do."""
    page, folder = f"https://huggingface.co/{repo}", _as_folder(repo)
    if isinstance(error, GatedRepoError):
        return f"model.path={repo} is gated, and you are not let in yet. Accept its licence at {page}, then {LOG_IN}."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"model.path must be a folder, a hub id, or one of {_embedded_names()}, but is {repo!r}: {folder} does not"
            f" exist, and the hub has no {page} that you may see. Check the spelling; if it is private, {LOG_IN}."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"model.revision must be a branch, tag or commit of {repo}, but is {revision!r}. They are listed at"
            f" {page}/tree/main."
        )
    if isinstance(error, LocalEntryNotFoundError):
        offline = constants.is_offline_mode()
        why = (
            "HF_HUB_OFFLINE=1 keeps it from being fetched" if offline else f"the hub cannot be reached {_cause(error)}"
        )
        remedy = "Unset HF_HUB_OFFLINE once" if offline else "Look at the network"
        return (
            f"model.path={repo} is not wholly in the hub's cache {cache}, and {why}; nor is there a folder {folder}."
            f" {remedy}, or take a local folder or one of {_embedded_names()}."
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"model.path={repo} cannot be fetched: the hub refuses your token. For another, {LOG_IN}."
    return f"model.path={repo} cannot be fetched from the hub {_cause(error)}. Try again; what was fetched is kept."


def _cause(error: BaseException) -> str:
    """What happened, in brackets: a status, the system's words, or a name; other texts may hold a token."""
    while not isinstance(error, HfHubHTTPError) and (inner := error.__cause__ or error.__context__):
        error = inner
    if isinstance(error, HfHubHTTPError):
        return f"(HTTP status {error.response.status_code})"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"({reason or type(error).__name__})"


def fingerprint(folder: Path) -> str:
    """A hash of a model folder's content: config, tokenizer, weights and code, whatever the folder is called.

    In the hub's cache id and commit stand for the content, which is not read.
    """
    total = hashlib.sha256()
    if commit := _hub_commit(folder):
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
    """Loads a base model's weights, safetensors only, in evaluation mode.

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
        options["quantization_config"] = _bits_and_bytes(base, dtype)
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
        _settle_bits_and_bytes(model)
    if options["device_map"] is None:
        model.to(place)  # type: ignore[arg-type]
    if base.device_map and not hasattr(model, "hf_device_map"):  # transformers notes only what it spread
        model.hf_device_map = {"": model.device}  # type: ignore[assignment]
    model.eval()
    return model


def _bits_and_bytes(base: Base, dtype: torch.dtype) -> BitsAndBytesConfig:
    if base.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=base.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


def _settle_bits_and_bytes(model: PreTrainedModel) -> None:
    """Keeps bitsandbytes from changing a model behind our backs, and from a warning at each layer of each step."""
    for module in model.modules():
        # On a CPU with AVX512-BF16 the first evaluation would repack 4-bit weights for a kernel that computes in
        # bfloat16 and passes no gradient on; a base that was evaluated could not be trained or dequantised any more.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def dequantized(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A quantised model's weights as ordinary ones, with the layers that its architecture has; any other is only cast.

    Args:
        model: as `load_base` gives it; it is used up.
        dtype: of all weights.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        for name, module in list(model.named_modules()):
            if hasattr(module, "source_cls"):  # transformers' note of which layer was quantised
                model.set_submodule(name, _ordinary_layer(module, dtype))
        quantizer.remove_quantization_config(model)
        model.is_loaded_in_4bit = model.is_loaded_in_8bit = False  # type: ignore[assignment]
    model.to(dtype)  # type: ignore[arg-type]
    return model


def _ordinary_layer(module: Any, dtype: torch.dtype) -> nn.Module:
    """The layer that a quantised one was made from. Conv1D's weight is (in, out), where all others are (out, in)."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    weight = dequantize_bnb_weight(module.weight, getattr(module, "state", None)).to(dtype)
    layer: nn.Module
    with torch.device("meta"):
        if module.source_cls is Conv1D:
            layer, weight = Conv1D(module.out_features, module.in_features), weight.T.contiguous()
        else:
            layer = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    layer.weight = nn.Parameter(weight)
    layer.bias = module.bias
    return layer.train(module.training)


def load_model(folder: Path, dtype: torch.dtype, place: torch.device) -> PreTrainedModel:
    """Loads a causal language model's weights, safetensors only, in evaluation mode."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    return model.to(place).eval()  # type: ignore[no-any-return, arg-type]


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads a tokenizer; one without a padding token pads with its end-of-sequence token."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer  # type: ignore[no-any-return]


def skeleton(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model without weights, on the meta device: names and shapes in milliseconds."""
    return _skeleton(folder, trust_remote_code, None)


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
    if base.revision is not None and _hub_commit(folder) is None:
        found.append(f"model.revision={base.revision} needs a hub model, but model.path={base.path} is none. Drop it.")
    return [*found, *_folder_problems(base, folder)]


def _quantization_problems(base: Base) -> Iterator[str]:
    if base.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        yield (
            f"model.quantization={base.quantization} needs the package bitsandbytes, which is not installed."
            f" {INSTALL_QUANTIZATION}"
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
        f"model.path={base.path} brings Python code of its own, which runs only with model.trust_remote_code=true."
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
        load_tokenizer(folder, trust_remote_code=base.trust_remote_code)
    except Exception as error:  # as above
        yield (
            f"model.path must have a tokenizer, but none can be loaded from {folder}: {_in_short(error)}"
            " Save it beside the weights with its save_pretrained."
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
