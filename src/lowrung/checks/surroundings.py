"""What is around: the tracker, engines of clusters, proxies and tokens. No secret is repeated."""

import importlib.metadata
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowrung.checks.finding import Check, Finding, note, ok, wrong
from lowrung.store import addresses
from lowrung.track import base

SECONDS = 10.0
"""The longest that a server may take to say that it is there."""

REMEDY = "Start it, or run with track=none."
"""What to do about a tracker that does not answer."""

ASK_THEM = "Ask whoever runs the cluster; runs on this machine do not need it."
"""What to do about a SLURM that does not answer."""

NAMED = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    *("MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
"""Variables that are named where they are set, and whose values are not."""

SHOWN = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "LOWRUNG_CACHE", "CUDA_VISIBLE_DEVICES")
"""Variables that are shown with their values: folders, numbers and switches, which should hold no secret."""


def checks(here: Path) -> list[Check]:
    """The tracker of ``here``, engines, and the environment."""
    sinfo = ["sinfo", "--noheader", "--format=%P %a %D %t"]
    return [
        Check("tracker", lambda: tracker(here), 2 * SECONDS, REMEDY),
        Check("Ray", lambda: [_ray()], SECONDS, "The disk that Python is installed on hangs."),
        Check("SLURM", lambda: [slurm(sinfo, SECONDS)] if shutil.which("sbatch") else [], 2 * SECONDS, ASK_THEM),
        Check("set", _environment, SECONDS, "Report this."),
    ]


def _environment() -> Iterator[Finding]:
    if names := [name for name in NAMED if os.environ.get(name)]:
        yield note("set, not shown", ", ".join(names))
    if shown := [f"{name}={_harmless(os.environ[name])}" for name in SHOWN if name in os.environ]:
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
    except TimeoutError:
        yield wrong("tracker", f"{uri} did not answer in {SECONDS:g} s", REMEDY)
    except (OSError, ValueError) as error:
        yield wrong("tracker", f"{uri} does not answer ({type(error).__name__})", REMEDY)


def slurm(command: Sequence[str], seconds: float) -> Finding:
    """Whether SLURM answers. A note at most: lowrung needs none, and is started in a job as anything else is.

    Args:
        command: prints a line for each partition and state: name, whether it is up, how many nodes, their state.
        seconds: the longest that it may take: without its controller, SLURM's programs wait for minutes.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return note("SLURM", f"{command[0]} did not answer in {seconds:g} s", ASK_THEM)
    except OSError as error:
        return note("SLURM", f"{command[0]} cannot be run ({type(error).__name__})", ASK_THEM)
    if done.returncode:
        last = (done.stderr.strip() or f"code {done.returncode}").splitlines()[-1]
        return note("SLURM", f"{command[0]} fails ({last})", ASK_THEM)
    rows = [" ".join(line.split()) for line in done.stdout.splitlines() if line.strip()]
    return ok("SLURM", "; ".join(rows)) if rows else note("SLURM", "has no partition", ASK_THEM)


def _ray() -> Finding:
    try:
        return ok("Ray", importlib.metadata.version("ray"))
    except importlib.metadata.PackageNotFoundError:
        return note("Ray", "not installed; only hydra/launcher=ray needs it")


def _harmless(value: str) -> str:
    return "an address with a password, not shown" if addresses.holds_a_password(value) else value
