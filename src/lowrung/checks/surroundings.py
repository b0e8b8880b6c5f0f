"""What is around: the tracker, engines of clusters, proxies and tokens. No secret is repeated."""

import importlib.metadata
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from lowrung.checks.finding import Finding, note, ok, wrong
from lowrung.store import addresses
from lowrung.track import base

SECONDS = 10.0
"""The longest that a server may take to say that it is there."""

NAMED = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    *("MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
"""Variables that are named where they are set, and whose values are not."""

SHOWN = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "LOWRUNG_CACHE", "CUDA_VISIBLE_DEVICES")


def check(here: Path) -> Iterator[Finding]:
    """The tracker of ``here``, engines, and the environment."""
    yield from tracker(here)
    for name, program in {"submitit": "sbatch", "ray": "ray"}.items():
        yield from _engine(name, program)
    if names := [name for name in NAMED if os.environ.get(name)]:
        yield note("set, not shown", ", ".join(names))
    if shown := [f"{name}={os.environ[name]}" for name in SHOWN if name in os.environ]:
        yield note("set", ", ".join(shown))


def tracker(here: Path) -> Iterator[Finding]:
    """Whether MLflow's store can be used; a database that is not there yet is made by the first run."""
    chosen = base.chosen_uri(None)
    if problems := base.check_uri(chosen):
        yield wrong("tracker", problems[0], "Correct the variable, or run with track=none.")
        return
    uri = base.store_uri(None, here)
    database = addresses.sqlite_path(uri)
    if database is not None:
        there = "is there" if database.is_file() else "is made by the first run"
        yield ok("tracker", f"{database} {there}")
    elif uri.startswith(("http://", "https://")):
        yield from _server(uri)
    else:
        yield note("tracker", f"a {uri.partition(':')[0]} database, which was not asked")


def _server(uri: str) -> Iterator[Finding]:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS) as answer:  # noqa: S310  (http alone)
            yield ok("tracker", f"{uri} answers ({answer.status})")
    except urllib.error.HTTPError as error:
        yield note("tracker", f"{uri} answers {error.code}", "See whether the address and the credentials are right.")
    except (OSError, ValueError) as error:
        yield wrong("tracker", f"{uri} does not answer ({type(error).__name__})", "Start it, or run with track=none.")


def _engine(package: str, program: str) -> Iterator[Finding]:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    where = shutil.which(program)
    yield note(package, f"{version}; {program} {'is at ' + where if where else 'is not on the path'}")
