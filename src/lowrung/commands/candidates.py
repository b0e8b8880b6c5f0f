"""A study's best run that passed the gate, why other runs may not be promoted, and where a run was tracked."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrung.commands.run_inputs import config_of
from lowrung.errors import UsageError, blaming
from lowrung.store import addresses, records, results
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.studies import finding
from lowrung.studies.folders import Folders
from lowrung.track.base import store_uri

if TYPE_CHECKING:
    from lowrung.track.lookup import TrackedRun

OBJECTIVE = {"eval/loss": "minimize"}
"""What a sweep optimises unless it says otherwise."""

SHOWN = 3
"""How many reasons a message gives."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A run that may be promoted.

    Attributes:
        run: its folder.
        trial: ``<study>/<n>``, with several seeds ``<study>/<n>/seed_<s>``; None for a run that is part of no sweep.
        objective: the metric that its study optimises, the first one of several.
        value: of that metric; None where it was not measured.
        refusal: why it cannot be promoted, and the remedy; None where it can.
    """

    run: RunFolder
    trial: str | None
    objective: str
    value: float | None
    refusal: str | None

    @property
    def name(self) -> str:
        """Its name in commands."""
        return self.trial or self.run.path.name


def best(found: StudyFolder) -> tuple[Candidate, Sequence[Candidate]]:
    """The best run of a study that can be promoted, and the better ones that cannot.

    With several seeds trials are ranked by their means, and the first seed that passed stands for its trial: the seed
    with the best score would be a lucky one.

    Raises:
        UsageError: when none can be.
    """
    passed_over: list[Candidate] = []
    for candidate in candidates(found):
        if candidate.refusal is None:
            return candidate, passed_over
        passed_over.append(candidate)
    reasons = [f"{candidate.name}: {candidate.refusal}" for candidate in passed_over[:SHOWN]]
    more = [f"and {len(passed_over) - SHOWN} more runs"] if len(passed_over) > SHOWN else []
    raise UsageError(
        [f"{found.path.name} must have a complete run that passed the gate, but has none.", *reasons, *more]
    )


def candidates(found: StudyFolder) -> Iterator[Candidate]:
    """The runs of a study, best trial first, as its leaderboard has them.

    Raises:
        UsageError: when the study has no leaderboard yet, or that of another study.
    """
    if not found.leaderboard.is_file():
        raise UsageError(
            f"{found.path.name} must have ended for its best run to be known, but has no leaderboard yet. Start it"
            " again with the same command: it continues."
        )
    objective, _ = next(iter(_objectives(found).items()))
    with blaming(f"The leaderboard, {found.leaderboard},", "Start the study again: it is written anew."):
        rows = records.read_list(found.leaderboard)
        listed = [
            (row["trial"], run["seed"], Path(str(run.get("results"))).name, list(row["broken"]))
            for row in rows
            for run in row["runs"]
        ]
    folders = Folders.of(found)
    if folders.contradict(rows):
        raise UsageError(
            f"{found.leaderboard} must be of this study, but names other runs. Start the study again: it is written"
            " anew."
        )
    for trial, seed, signature, broken in listed:
        job = folders.job(trial, seed, signature)
        run = job.run if job else found.path / str(trial)  # where nothing is, and so no outcome
        yield _candidate(RunFolder(run), f"{found.path.name}/{job.name if job else trial}", objective, broken)


def of_run(name: str, run: RunFolder, here: Path) -> tuple[Candidate, StudyFolder | None]:
    """A run as a candidate, and the study in ``here/multirun`` that it is part of, if any.

    Args:
        name: as it was typed: of several studies that have the run, the one that it names is meant.
        run: the run.
        here: the current folder.
    """
    holding = sorted(finding.holding(run, here), key=lambda found: found[0].path.name not in Path(name).parts)
    for study, job in holding:
        objective, _ = next(iter(_objectives(study).items()))
        return _candidate(run, f"{study.path.name}/{job.name}", objective, ()), study
    return _candidate(run, None, next(iter(OBJECTIVE)), ()), None


def setting(found: StudyFolder, name: str) -> Any:
    """A setting with which a study was last started, by its dotted name; None where it is not set."""
    from omegaconf import OmegaConf

    with blaming(f"The study's config, {found.config},"):
        return OmegaConf.select(OmegaConf.load(found.config), name) if found.config.is_file() else None


def uri_of(run: RunFolder, here: Path) -> str | None:
    """The address of the store in which a run is tracked; None where tracking is off.

    A study that reuses another's result tracks it in its own store, which the run's config does not name.

    Args:
        run: the run.
        here: the folder that relative SQLite paths start from, and in which studies are looked for.
    """
    chosen = (setting(study, "track") for study, _ in finding.holding(run, here))
    for track in (*chosen, config_of(run).get("track")):
        if track and track.get("kind") == "mlflow":
            return store_uri(track.get("uri"), here)
    return None


def tracked_run(run: RunFolder, here: Path) -> "TrackedRun | None":
    """A run as it was tracked, or None where it was not.

    Raises:
        UsageError: when the address cannot be used.
        TrackError: when the store does not answer.
    """
    uri = uri_of(run, here)
    database = addresses.sqlite_path(uri) if uri else None
    if uri is None or (database and not database.is_file()):
        return None
    from lowrung.track import lookup  # imports mlflow (2 s)

    with blaming(f"The tracker, {uri},"):
        return lookup.by_signature(uri, run.path.name)


def _objectives(found: StudyFolder) -> dict[str, str]:
    chosen = setting(found, "hydra.sweeper.objectives")
    return {str(name): str(direction) for name, direction in chosen.items()} if chosen else OBJECTIVE


def _candidate(run: RunFolder, trial: str | None, objective: str, broken: Sequence[str]) -> Candidate:
    outcome = Outcome.read(run.outcome)
    value = outcome.metrics.get(objective) if outcome else None
    return Candidate(run, trial, objective, value, _refusal(run, outcome, broken))


def _refusal(run: RunFolder, outcome: Outcome | None, broken: Sequence[str]) -> str | None:
    if outcome is None:
        return f"it must have run to its end, but {run.path} has no outcome. Run it again."
    if outcome.status is not Status.COMPLETE:
        return f"it must be complete, but is {outcome.status}: {outcome.cause}."
    if broken:
        return f"it must meet the study's constraints, but breaks {' and '.join(broken)}. Name it to promote it anyway."
    if not run.adapter.is_dir():
        return "it must have an adapter, but all weights were trained (lora=full), or the adapter was deleted."
    if outcome.signature and (doubt := results.doubt(run, outcome)):  # older versions wrote none
        return f"it must be what its run left, but {doubt}. Run it again."
    if outcome.passed_gate is None:
        return "it must have passed the gate, but the gate was off (verify=none). Train it with verify=default."
    if not outcome.passed_gate:
        failures = "; ".join(outcome.gate_failures) or "see its outcome.json"
        return f"it must have passed the gate, but failed: {failures}. docs/verification.md says what that means."
    return None
