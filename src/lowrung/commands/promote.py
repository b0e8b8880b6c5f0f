"""`lowrung promote`: a run that passed the gate as a registered model, verified before an alias points at it."""

import argparse
import dataclasses
import functools
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrung.commands import model_card, studies
from lowrung.commands.arguments import Commands
from lowrung.commands.generate import located
from lowrung.commands.merge import gate_settings, merge
from lowrung.commands.names import RUN_ID, Named, find_adapters, store_of_ids
from lowrung.commands.registered import verify
from lowrung.commands.run_inputs import base_for, config_of
from lowrung.commands.studies import Candidate
from lowrung.errors import UsageError, did_you_mean
from lowrung.store import atomic
from lowrung.track.base import TrackError

if TYPE_CHECKING:
    from lowrung.adapters.answers import Asked
    from lowrung.track.lookup import TrackedRun
    from lowrung.track.registry import Entry, Registry

ABOUT = (
    "Registers the best run that passed the gate as a model in MLflow, and points an alias at it once it was"
    " loaded from there, in a fresh process, and answers as the adapter does. A run is registered once: promoted"
    " again, the alias moves back to it. Where the answers differ, nothing is promoted and the exit code is 1."
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
        text: all of it in words.
    """

    name: str
    version: str
    alias: str
    uri: str
    text: str


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("promote", help="register the best run in MLflow as the champion", description=ABOUT)
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="a study, whose best run is meant, or a run or trial (default: the study that was started last)",
    )
    parser.add_argument("--merged", action="store_true", help="register the merged model, verified as by merge")
    parser.add_argument("--name", dest="registered", help="the registered model (default: base and data: BASE-DATA)")
    parser.add_argument("--alias", default=ALIAS, help="what points at it (default: %(default)s)")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> None:
    promoted = promote(chosen.name, registered=chosen.registered, alias=chosen.alias, merged=chosen.merged)
    print(promoted.text)


def promote(
    name: str | None = None, *, registered: str | None = None, alias: str = ALIAS, merged: bool = False
) -> Promoted:
    """Registers the best run that passed the gate in MLflow, and points an alias at it.

    The version is made from the run's adapter, or from the adapter merged into its base; its weights are safetensors,
    and the base's are not among an adapter's. It is loaded by MLflow in a fresh process, where its answers and logits
    must be those of what was registered, before the alias moves; or else it is deleted. The same run is registered
    once: promoted again, only the alias moves.

    Args:
        name: a study, whose best run is meant, or a run by its folder, signature, trial or MLflow's id; None is the
            study that was started last.
        registered: the registered model's name; None is that of the base and the data: ``tiny-number_words``.
        alias: points at the version afterwards; what it pointed at before stays registered.
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
    record, registry = _opened(name, candidate, registered, alias)
    form = MERGED if merged else ADAPTER
    identity = {"lowrung.signature": run.path.name, "lowrung.form": form}
    version = registry.known(registered, identity)
    verified = "was registered and verified before"
    if version is None:
        with atomic.lock(run.lock):
            promotion = _Promotion(registry, record, candidate, registered, identity)
            version, verified = promotion.make(merged=merged)
    before = registry.point(registered, alias, version)
    lines = [
        *(f"passed over: {other.name}, since {other.refusal}" for other in passed_over),
        f"registered:  {registered}, version {version}: {FORMS[form]} of {_described(candidate)}",
        f"verified:    {verified}",
        f"alias:       models:/{registered}@{alias}{_moved(before, version)}",
        f"store:       {record.uri}",
    ]
    return Promoted(registered, version, alias, record.uri, "\n".join(lines))


# -- which run ---------------------------------------------------------------------------------------------------------


def _chosen(name: str | None, here: Path) -> tuple[Candidate, Sequence[Candidate]]:
    """The run that is meant, and the better ones of its study that cannot be promoted."""
    found = studies.study(name, here)
    if found is not None:
        return studies.best(found)
    assert name is not None
    try:
        (one,) = find_adapters([name], here)
    except UsageError as error:
        known = sorted(file.parent.name for file in here.glob("multirun/*/multirun.yaml"))
        raise UsageError(f"{error} Nor is it a study.{did_you_mean(name, known)}") from error
    if one.run is None:
        raise UsageError(f"{name} must be a run, whose gate and scores are known, but is an adapter by itself.")
    candidate, study = studies.of_run(one.run, here)
    if candidate.refusal is None:
        return candidate, ()
    problems = [f"{name} cannot be promoted: {candidate.refusal}"]
    if study is not None and study.leaderboard.is_file():
        other = next((other for other in studies.candidates(study) if other.refusal is None), None)
        problems.append(
            f"The best of {study.path.name} that can be is {other.name}."
            if other
            else f"{study.path.name} has none that can be."
        )
    raise UsageError(" ".join(problems))


def _described(candidate: Candidate) -> str:
    value = "" if candidate.value is None else f", {candidate.objective} {candidate.value:.4g}"
    trial = f"{candidate.trial}, " if candidate.trial else ""
    return f"{trial}run {candidate.run.path.name}{value}"


def _moved(before: str | None, version: str) -> str:
    return f", which was version {before} before" if before not in (None, version) else ""


def _default_name(config: Mapping[str, Any]) -> str:
    """The base's and the data's names: what competes for it has the same task."""
    base = Path(str(config["model"]["path"]).removeprefix("embedded:")).name
    data = Path(config["data"]["path"]).stem if config["data"].get("path") else config["data"]["name"]
    return re.sub(r"[^\w.-]+", "-", f"{base}-{data}")


# -- where to ----------------------------------------------------------------------------------------------------------


def _opened(name: str | None, candidate: Candidate, registered: str, alias: str) -> tuple["TrackedRun", "Registry"]:
    """The run as it was tracked, and the registry of that store."""
    here = Path.cwd()
    is_id = name is not None and RUN_ID.fullmatch(name) is not None
    uri = store_of_ids(here) if is_id else studies.uri_of(candidate.run, here)
    if uri is None:
        raise UsageError(
            f"{candidate.name} must have been tracked to be promoted, but was run with track=none. Run the same sweep"
            " (-m) with track=mlflow: its results are there already, and only the records are made."
        )
    from lowrung.track import lookup, registry

    if problems := registry.problems(registered, alias):
        raise UsageError(problems)
    try:
        record = lookup.by_id(uri, str(name)) if is_id else lookup.by_signature(uri, candidate.run.path.name)
        opened = registry.Registry(uri)
    except TrackError as error:
        raise UsageError(
            f"{candidate.name} must be in a store that answers and has a model registry, but {uri} does not ({error})."
        ) from error
    if record is None:
        raise UsageError(
            f"{candidate.name} must have been tracked to be promoted, but {uri} has no run of its signature,"
            f" {candidate.run.path.name}. Run the same sweep (-m) again: only the records are made."
        )
    return record, opened


# -- the version -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Promotion:
    """What a version is made from."""

    registry: "Registry"
    record: "TrackedRun"
    candidate: Candidate
    registered: str
    identity: Mapping[str, str]

    def make(self, *, merged: bool) -> tuple[str, str]:
        """Makes the version; returns its number and how it was verified."""
        working = self.candidate.run.scratch
        shutil.rmtree(working, ignore_errors=True)  # of a process that was killed
        working.mkdir(parents=True)
        try:
            one, description = self._written(working / self.registered, merged=merged)
            limits = gate_settings(config_of(self.candidate.run))["tolerances"]
            check = functools.partial(verify, self.registry, one, limits)
            return self.registry.register(self._entry(working / self.registered, one, description), check)
        finally:
            shutil.rmtree(working)

    def _written(self, folder: Path, *, merged: bool) -> tuple["Asked", str]:
        """Writes the model's folder; returns it as one who is asked, and its card."""
        from lowrung.adapters import compatibility, files
        from lowrung.adapters.answers import Asked
        from lowrung.config.schema import ModelConf

        run = self.candidate.run
        found, config = Named(self.candidate.name, run.adapter, run), config_of(run)
        saved = files.read(run.adapter)
        base = base_for(found, saved, None)
        format = str(config["data"]["format"])
        if merged:
            merge(str(run.adapter), str(folder), base=None, dtype=None)
            card = (folder / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)[1]
            return Asked(ModelConf(str(folder)), format=format), card
        compatibility.check(saved, base)
        shutil.copytree(run.adapter, folder)
        about = "A LoRA adapter trained by lowrung."
        card = model_card.body(found, saved, base, config, title=self.registered, about=about)
        readme = model_card.with_head(card, base, library="peft", tags=("lora",))
        (folder / "README.md").write_text(readme, encoding="utf-8")
        return Asked(located(base), folder, format), card

    def _entry(self, folder: Path, one: "Asked", card: str) -> "Entry":
        from lowrung.adapters import export, pyfunc_loader, serving
        from lowrung.track.registry import Entry

        candidate, model = self.candidate, config_of(self.candidate.run)["model"]
        tags = {
            "lowrung.results": str(candidate.run.path),
            "lowrung.trial": candidate.trial,
            "lowrung.base": model["path"],
            "lowrung.base_revision": model["revision"],
            "lowrung.gate": "passed",
            "lowrung.objective": candidate.objective,
            "lowrung.objective_value": None if candidate.value is None else f"{candidate.value:.6g}",
        }
        return Entry(
            name=self.registered,
            run=self.record.run,
            folder=folder,
            loader=Path(pyfunc_loader.__file__),
            settings=serving.settings(one),
            example=export.TEXTS[0],
            packages=("bitsandbytes",) if one.base.quantization != "none" else (),
            identity=self.identity,
            tags={tag: str(value) for tag, value in tags.items() if value is not None},
            description=card.strip(),
        )
