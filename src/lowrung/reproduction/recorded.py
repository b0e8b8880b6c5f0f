"""A run as it was recorded: what it was made from, with what, and what came of it."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from lowrung.config import rules, structured
from lowrung.config.schema import Config
from lowrung.errors import StoreError, UsageError, in_short
from lowrung.finetune.training import user_metrics
from lowrung.store import records
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.version import __version__

ENDED = (Status.COMPLETE, Status.DIVERGED)
"""Ends that a run comes to by itself, and so again."""

NEEDED = ("model", "data", "lora", "train")
"""Groups that the config of each version has."""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A run that can be made again.

    Attributes:
        name: as it was named.
        run: its folder.
        config: what it was made from.
        outcome: how it ended.
        environment: what it was made with; see `lowrung.config.signature.environment`.
    """

    name: str
    run: RunFolder
    config: Config
    outcome: Outcome
    environment: Mapping[str, Any]

    @property
    def threads(self) -> int:
        """The CPU threads that it was trained with."""
        return int(self.environment["threads"])

    @property
    def machine(self) -> Mapping[str, Any]:
        """What computed it; empty where an older version recorded nothing. See `lowrung.config.machine`."""
        described: Mapping[str, Any] = self.outcome.facts.get("machine", {})
        return described


def read(name: str, run: RunFolder, *, trust_remote_code: bool) -> Recorded:
    """Reads a run's records.

    Args:
        name: as the run was named.
        run: its folder, which has a config.
        trust_remote_code: whether code may run that comes with the base, or that ``data.metrics`` names. A run's config
            alone cannot allow it: its folder may come from anybody.

    Raises:
        UsageError: when the run did not come to an end of its own, or needs code that is not allowed.
        StoreError: when a record is missing or cannot be used by this version.
    """
    outcome = Outcome.read(run.outcome)
    if outcome is None or outcome.status not in ENDED:
        raise UsageError(_unended(name, run, outcome))
    environment = _environment(run)
    config = _config(run, environment)
    if not trust_remote_code and (problems := list(_code_problems(name, config))):
        raise UsageError(problems)
    return Recorded(name, run, config, outcome, environment)


def _code_problems(name: str, config: Config) -> Iterator[str]:
    """The code that a config names."""
    if config.model.trust_remote_code:
        yield (
            f"{name} was trained on a base that brings Python code, {config.model.path}, and a run's config alone"
            " cannot allow it to run. Read that code, then add --trust-remote-code."
        )
    if functions := user_metrics.of_users(config.data.metrics):
        yield (
            f"{name} was scored by functions of its user's, {', '.join(functions)}, and a run's config alone cannot"
            " allow them to run here. See that they are your own, then add --trust-remote-code."
        )


def _unended(name: str, run: RunFolder, outcome: Outcome | None) -> str:
    if outcome is None:
        return (
            f"{name} must be a run that has ended, but {run.path} has no {run.outcome.name}: it was not trained to its"
            " end, or its results were deleted. Run it to its end, or name another one."
        )
    pruned = " Its study ended it early; another study, or the run alone, trains it to its end."
    return (
        f"{name} must be a run that came to an end of its own, but it is {outcome.status}"
        f" ({outcome.cause or 'no cause was recorded'}).{pruned * (outcome.status is Status.PRUNED)}"
        " Name a run that is complete."
    )


def _environment(run: RunFolder) -> Mapping[str, Any]:
    file = run.environment
    if not file.is_file():
        raise StoreError(
            f"{run.path} must hold {file.name}, with the versions, threads and data that the run was made with, but"
            " does not: the folder is half deleted. Copy it from the run's artifacts in MLflow, or name another run."
        )
    environment = records.read(file)
    threads = environment["threads"]
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise records.unreadable(file, f"must have a number of threads of 1 or more, but has {threads!r}")
    for field, kind in (("model_fingerprint", str), ("data_fingerprint", str), ("versions", dict)):
        if not isinstance(environment[field], kind):
            raise records.unreadable(file, f"has another type of {field} than this version knows")
    return environment


def _config(run: RunFolder, environment: Mapping[str, Any]) -> Config:
    try:
        loaded: Any = OmegaConf.load(run.config)
        if not OmegaConf.is_dict(loaded) or not all(OmegaConf.is_dict(loaded.get(part)) for part in NEEDED):
            raise ValueError(f"it must have the groups {', '.join(NEEDED)}")
        config = structured.resolve(loaded)
        problems = rules.problems(config)
    except Exception as error:  # OmegaConf's and YAML's errors have no base in common
        raise _of_another_version(run, environment, in_short(error)) from error
    if problems:
        raise _of_another_version(run, environment, " ".join(problems))
    return config


def _of_another_version(run: RunFolder, environment: Mapping[str, Any], problem: str) -> StoreError:
    writer, commit = environment.get("lowrung", "of an unknown version"), environment.get("commit", "unknown")
    at = "" if commit == "unknown" else f", commit {commit}"
    return StoreError(
        f"{run.config} must hold settings that lowrung {__version__} knows, but does not ({problem}). lowrung"
        f" {writer}{at} wrote it: that version can make the run again."
    )
