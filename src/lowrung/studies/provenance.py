"""What a study's results come from: versions, commit, machine, base model and data."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lowrung.report.record import TrialRecord
from lowrung.store.layout import RunFolder
from lowrung.studies import runs
from lowrung.studies.doubts import Doubts
from lowrung.studies.settings import Asked
from lowrung.version import __version__

_OF_MACHINE = ("commit", "python", "platform", "device", "threads", "model_fingerprint", "data_fingerprint")

_INPUTS = {
    "model": ("model.path", "model.revision", "model.dtype", "model.quantization"),
    "data": ("data.name", "data.path", "data.subset", "data.train_size", "data.eval_size"),
}


def of(
    trials: Sequence[TrialRecord], asked: Asked, inputs: Mapping[str, str], doubts: Doubts, *, is_drawn: bool
) -> dict[str, str]:
    """Texts by name; what differs between runs lists all that there is.

    Args:
        trials: the study's.
        asked: what it was asked to do.
        inputs: where its models and data are from.
        doubts: takes runs of another version.
        is_drawn: whether a sampler may have drawn values.
    """
    made_with = [
        (trial.number, runs.environment(RunFolder(run.folder)))
        for trial in trials
        for run in trial.runs
        if run.folder is not None
    ]
    for number, environment in made_with:
        version = environment.get("lowrung")
        if version is not None and version != __version__:
            doubts.add(f"lowrung {version} made results that lowrung {__version__} shows", number)
    found = [environment for _, environment in made_with]
    versions = dict.fromkeys(name for one in found for name in _part(one, "versions"))
    return {
        "lowrung": _all(one.get("lowrung") for one in found),
        **{kind: _input(inputs, names) for kind, names in _INPUTS.items()},
        **_search(asked, is_drawn=is_drawn),
        **_times(trials),
        **{name.replace("_", " "): _all(one.get(name) for one in found) for name in _OF_MACHINE},
        **{name: _all(_part(one, "versions").get(name) for one in found) for name in versions},
    }


def _part(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = environment.get(name)
    return found if isinstance(found, dict) else {}


def _all(values: Iterable[Any]) -> str:
    """Each value once; a dash where there is none."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or "-"


def _input(inputs: Mapping[str, str], names: Sequence[str]) -> str:
    """Where a model or data are from: what is set."""
    first, *others = names
    given = [f"{name.partition('.')[2]} {inputs[name]}" for name in others if inputs.get(name) not in (None, "null")]
    return ", ".join([inputs.get(first, "differs between trials" if inputs else "-"), *given])


def _search(asked: Asked, *, is_drawn: bool) -> dict[str, str]:
    """The sampler, where anything is drawn, and the pruner."""
    parts = {name: asked.sweeper.get(name) for name in ("sampler", "pruner")}
    if not is_drawn:
        parts["sampler"] = {"name": "none: a grid"}
    return {name: str(part["name"]) for name, part in parts.items() if isinstance(part, dict) and part.get("name")}


def _times(trials: Sequence[TrialRecord]) -> dict[str, str]:
    """When the first of the study's own runs began, and when the last one ended."""
    ran = [run for trial in trials for run in trial.runs if run.slot is not None]
    moments = {
        "first run began": min((run.begun for run in ran if run.begun is not None), default=None),
        "last run ended": max((run.ended for run in ran if run.ended is not None), default=None),
    }
    return {
        name: time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(moment))
        for name, moment in moments.items()
        if moment is not None
    }
