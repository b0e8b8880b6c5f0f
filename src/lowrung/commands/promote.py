"""`lowrung promote`: a run that passed the gate as a registered model, verified before an alias points at it."""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrung.commands import candidates
from lowrung.commands.arguments import Commands
from lowrung.commands.candidates import Candidate
from lowrung.commands.names import RUN_ID, find_adapters, store_of_ids
from lowrung.commands.registered import Source, make
from lowrung.commands.run_inputs import config_of
from lowrung.errors import UsageError, blaming, did_you_mean
from lowrung.store import atomic
from lowrung.studies import finding
from lowrung.track.base import TrackError

if TYPE_CHECKING:
    from lowrung.track.lookup import TrackedRun
    from lowrung.track.registry import Registry

ABOUT = (
    "Registers the best run that passed the gate as a model in MLflow. The model is loaded from MLflow in a fresh"
    " process; if it answers as the adapter does, an alias points at it. A run is registered once: where it is"
    " promoted again, only the alias moves. Where the answers differ, nothing is promoted and the exit code is 1."
)

ALIAS = "champion"

ADAPTER, MERGED = "adapter", "merged"
FORMS = {ADAPTER: "the adapter", MERGED: "the merged model"}
"""What can be registered."""


@dataclasses.dataclass(frozen=True)
class Promoted:
    """What was promoted.

    Attributes:
        name: the registered model's.
        version: the number of its version.
        alias: what points at that version.
        uri: the address of the store.
        form: what was registered: ``adapter`` or ``merged``.
        run: the signature of the run that it is of.
        trial: ``<study>/<n>``; null for a run that is part of no sweep.
        objective: the metric that its study optimises.
        value: of that metric; null where it was not measured.
        verified: how it was verified, in words.
        before: the version that the alias pointed at; null where there was none.
        passed_over: why better runs of the study were not taken, by their names.
    """

    name: str
    version: str
    alias: str
    uri: str
    form: str
    run: str
    trial: str | None
    objective: str
    value: float | None
    verified: str
    before: str | None
    passed_over: Mapping[str, str]

    def __str__(self) -> str:
        """All of this in words."""
        value = "" if self.value is None else f", {self.objective} {self.value:.4g}"
        trial = f"{self.trial}, " if self.trial else ""
        moved = f", which was version {self.before} before" if self.before not in (None, self.version) else ""
        return "\n".join(
            [
                *(f"passed over: {name}, since {reason}" for name, reason in self.passed_over.items()),
                f"registered:  {self.name}, version {self.version}: {FORMS[self.form]} of {trial}run {self.run}{value}",
                f"verified:    {self.verified}",
                f"alias:       models:/{self.name}@{self.alias}{moved}",
                f"store:       {self.uri}",
            ]
        )


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("promote", help="register the best run in MLflow as the champion", description=ABOUT)
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="a study, of which the best run is taken, or a run or trial (default: the study that was started last)",
    )
    parser.add_argument("--merged", action="store_true", help="register the merged model, verified as by merge")
    parser.add_argument(
        "--name", dest="registered", help="the registered model's name (default: BASE-DATA, those of base and data)"
    )
    parser.add_argument("--alias", default=ALIAS, help="the alias that points at it (default: %(default)s)")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> Promoted:
    return promote(chosen.name, registered=chosen.registered, alias=chosen.alias, merged=chosen.merged)


def promote(
    name: str | None = None, *, registered: str | None = None, alias: str = ALIAS, merged: bool = False
) -> Promoted:
    """Registers the best run that passed the gate in MLflow, and points an alias at it.

    The version is made from the run's adapter, without the base's weights, or from the merged model. MLflow loads it in
    a fresh process, where its answers and logits must be those of what was registered. Then the alias moves; otherwise
    the version is deleted. A run is registered once: promoted again, only the alias moves.

    Args:
        name: a study, whose best run is meant, or a run by its folder, signature, trial or MLflow's id; None is the
            study that was started last.
        registered: the registered model's name; None is that of the base and the data: ``tiny-number_words``.
        alias: will point at the version; the version that it pointed at before stays registered.
        merged: registers the merged model, made and verified as `lowrung.commands.merge.merge` does it.

    Raises:
        UsageError: when there is no such run, or it was not tracked, did not complete or did not pass the gate; when
            no run of a study did; when the store does not answer or has no registry; when MLflow takes no such name
            or alias.
        LowrungError: when the model as loaded from MLflow does not answer as it should; nothing was promoted then.
        StoreError: when another process works in the run's folder.
    """
    candidate, passed_over = _chosen(name, Path.cwd())
    run, config = candidate.run, config_of(candidate.run)
    registered = registered or _default_name(config)
    tracked, registry = _opened(name, candidate, registered, alias)
    form = MERGED if merged else ADAPTER
    identity = {"lowrung.signature": run.path.name, "lowrung.form": form}
    with blaming(f"The registry, {tracked.uri},"):
        version = registry.known(registered, identity)
    verified = "was registered and verified before"
    if version is None:
        with atomic.lock(run.lock), blaming(f"{candidate.name}, or the registry, {tracked.uri},"):
            version, verified = make(registry, Source(candidate, tracked.run, registered, identity, merged))
    with blaming(f"The registry, {tracked.uri},"):
        before = registry.point(registered, alias, version)
    return Promoted(
        name=registered,
        version=version,
        alias=alias,
        uri=tracked.uri,
        form=form,
        run=run.path.name,
        trial=candidate.trial,
        objective=candidate.objective,
        value=candidate.value,
        verified=verified,
        before=before,
        passed_over={other.name: str(other.refusal) for other in passed_over},
    )


# -- which run ---------------------------------------------------------------------------------------------------------


def _chosen(name: str | None, here: Path) -> tuple[Candidate, Sequence[Candidate]]:
    """The run to promote, and the better ones of its study that cannot be promoted."""
    study = finding.find(None, here) if name is None else finding.named(name, here)
    if study is not None:
        return candidates.best(study)
    assert name is not None
    try:
        (one,) = find_adapters([name], here)
    except UsageError as error:
        known = sorted(study.path.name for study in finding.started(here))
        raise UsageError(f"{error} Nor is it a study.{did_you_mean(name, known)}") from error
    if one.run is None:
        raise UsageError(
            f"{name} must be a run, since the gate and the scores are a run's, but is an adapter without a run. Name a"
            " run, a trial or a study."
        )
    candidate, study = candidates.of_run(name, one.run, here)
    if candidate.refusal is None:
        return candidate, ()
    problems = [f"{name} cannot be promoted: {candidate.refusal}"]
    if study is not None and study.leaderboard.is_file():
        other = next((other for other in candidates.candidates(study) if other.refusal is None), None)
        problems.append(
            f"The best run of {study.path.name} that can be promoted is {other.name}."
            if other
            else f"{study.path.name} has no run that can be promoted."
        )
    raise UsageError(" ".join(problems))


def _default_name(config: Mapping[str, Any]) -> str:
    """The base's and the data's names: models of one name compete at one task."""
    base = Path(str(config["model"]["path"]).removeprefix("embedded:")).name
    data = Path(config["data"]["path"]).stem if config["data"].get("path") else config["data"]["name"]
    return re.sub(r"[^\w.-]+", "-", f"{base}-{data}")


# -- where to ----------------------------------------------------------------------------------------------------------


def _opened(name: str | None, candidate: Candidate, registered: str, alias: str) -> tuple["TrackedRun", "Registry"]:
    """The run as it was tracked, and the registry of that store."""
    here = Path.cwd()
    is_id = name is not None and RUN_ID.fullmatch(name) is not None
    uri = store_of_ids(here) if is_id else candidates.uri_of(candidate.run, here)
    if uri is None:
        raise UsageError(
            f"{candidate.name} must have been tracked to be promoted, but was run with track=none. Run the same sweep"
            " (-m) with track=mlflow: nothing is trained again, and its results are tracked."
        )
    from lowrung.track import lookup, registry

    if problems := registry.problems(registered, alias):
        raise UsageError(problems)
    try:
        with blaming(f"The tracker, {uri},"):
            tracked = lookup.by_id(uri, str(name)) if is_id else lookup.by_signature(uri, candidate.run.path.name)
            opened = registry.Registry(uri)
    except TrackError as error:
        raise UsageError(
            f"{candidate.name} must be in a store that answers and has a model registry, but {uri} does not ({error})."
            " Start it, or track the run in another store."
        ) from error
    if tracked is None:
        raise UsageError(
            f"{candidate.name} must have been tracked to be promoted, but {uri} has no run of its signature,"
            f" {candidate.run.path.name}. Run the same sweep (-m) again: nothing is trained again, and its results are"
            " tracked."
        )
    return tracked, opened
