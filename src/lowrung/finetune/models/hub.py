"""Models of the Hugging Face hub: fetched into its cache, or an error that explains why not."""

import contextlib
import functools
import sys
from pathlib import Path

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

from lowrung.errors import UsageError

DESCRIBING = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What is fetched of any hub model: config and tokenizer; never a pickle, and code only where trusted."""

WEIGHTS = "*.safetensors"

NOT_FETCHED = ("*/*", "consolidated*")
"""Folders hold other formats; Mistral's ``consolidated.safetensors`` are the same weights a second time."""

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def is_id(path: str) -> bool:
    """Whether a path is spelt as a hub id: ``name`` or ``owner/name``."""
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


@functools.cache  # one answer a process: a branch may move while it works
def fetch(
    repo: str, revision: str | None, trust_remote_code: bool, cache: Path, embedded: str, *, weights: bool = True
) -> Path:
    """A hub model's snapshot folder; what the cache lacks is downloaded, unless HF_HUB_OFFLINE=1 is set.

    Args:
        repo: the model's id.
        revision: branch, tag or commit; None is the main branch.
        trust_remote_code: whether its Python files are fetched too.
        cache: the hub's cache.
        embedded: what can be had without a hub, for messages.
        weights: whether its weights are wanted, and not config and tokenizer alone.

    Raises:
        UsageError: when it cannot be fetched, or has no weights as safetensors.
    """
    code = ("*.py",) if trust_remote_code else ()
    wanted = [*DESCRIBING, *code, *([WEIGHTS] if weights else [])]
    if weights and not _snapshots(repo, cache).exists():
        print(f"fetching {repo} into {cache}, once", flush=True)
    try:
        with contextlib.nullcontext() if sys.stderr.isatty() else disable_progress_bars():
            folder = Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    cache_dir=cache,
                    allow_patterns=wanted,
                    ignore_patterns=list(NOT_FETCHED),
                )
            )
    except (HTTPError, OSError) as error:
        # Not chained: the message of an HTTP client may hold the headers of its request, and so a token.
        raise UsageError(_problem(repo, revision, cache, error, embedded)) from None
    for name, what in (("config.json", "config.json"), (WEIGHTS, "weights as safetensors")):
        if next(folder.glob(name), None) is None and name in ("config.json", *wanted):
            if constants.is_offline_mode():  # config and tokenizer alone may have been fetched
                raise UsageError(_problem(repo, revision, cache, LocalEntryNotFoundError(name), embedded))
            raise UsageError(
                f"model.path must be a model with {what}, but https://huggingface.co/{repo} has none in"
                f" {revision or 'main'}. Take another revision (model.revision) or model: other formats are not loaded,"
                " since a pickle can run any code."
            )
    return folder


def _snapshots(repo: str, cache: Path) -> Path:
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots"


def commit(folder: Path) -> tuple[str, str] | None:
    """Id and commit of a model in the hub's cache, or None of any other folder."""
    repository = folder.parent.parent
    cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    if folder.parent.name != "snapshots" or repository.parent != cache or not repository.name.startswith("models--"):
        return None
    return repository.name.removeprefix("models--").replace("--", "/"), folder.name


def _problem(repo: str, revision: str | None, cache: Path, error: Exception, embedded: str) -> str:
    """Why a model could not be fetched, and what to do."""
    page, folder = f"https://huggingface.co/{repo}", Path(repo).absolute()
    if isinstance(error, GatedRepoError):
        return f"model.path={repo} is gated, and you have no access yet. Accept its licence at {page}, then {LOG_IN}."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"model.path must be a folder, a hub id, or one of {embedded}, but is {repo!r}: {folder} does not"
            f" exist, and the hub has no {page} that you can read. Check the spelling; if it is private, {LOG_IN}."
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
        remedy = "Unset HF_HUB_OFFLINE once" if offline else "Check the network"
        return (
            f"model.path={repo} is not completely in the hub's cache {cache}, and {why}; nor is there a folder"
            f" {folder}. {remedy}, or take a local folder or one of {embedded}."
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
