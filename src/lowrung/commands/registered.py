"""A version of a registered model: made from a run, and verified as MLflow loads it in a fresh process."""

import dataclasses
import functools
import operator
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands import model_card
from lowrung.commands.candidates import Candidate
from lowrung.commands.merge import gate_settings, merge
from lowrung.commands.names import Named
from lowrung.commands.run_inputs import base_for, config_of, format_of, located
from lowrung.errors import LowrungError

if TYPE_CHECKING:
    from lowrung.adapters.answers import PromptedModel
    from lowrung.config.schema import ToleranceConf
    from lowrung.track.registry import Entry, Registry

NEW_TOKENS = 32
"""The most tokens of an answer."""

FIRST = "the first token of each answer"
"""Where logits are compared."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What a version is made from.

    Attributes:
        candidate: the run.
        tracked: the run's id in MLflow.
        name: the registered model's.
        identity: tags by which the version is found again.
        merged: whether the merged model is registered rather than the adapter.
    """

    candidate: Candidate
    tracked: str
    name: str
    identity: Mapping[str, str]
    merged: bool


def make(registry: "Registry", source: Source) -> tuple[str, str]:
    """Makes a version in the run's working folder, registers it and verifies it.

    Returns:
        its number, and how it was verified, in words.

    Raises:
        LowrungError: when it is not what the run has trained; no version is left then.
        TrackError: when the store refuses it, or MLflow cannot load it.
    """
    run = source.candidate.run
    shutil.rmtree(run.scratch, ignore_errors=True)  # of a process that was killed
    run.scratch.mkdir(parents=True)
    try:
        model, card = (_write_merged if source.merged else _write_adapter)(source, run.scratch / source.name)
        check = functools.partial(verify, registry, model, gate_settings(config_of(run)).tolerances)
        return registry.register(_entry(source, run.scratch / source.name, model, card), check)
    finally:
        shutil.rmtree(run.scratch)


def verify(
    registry: "Registry", registered: "PromptedModel", tolerances: Mapping[str, "ToleranceConf"], address: str
) -> str:
    """Compares a version's answers and logits with those of the model that was registered.

    Of an adapter, they are compared with the base's as well: an adapter without effect would verify nothing.

    Args:
        registry: the version's.
        registered: the model that was registered.
        tolerances: the gate's, by precision.
        address: the version's, ``models:/NAME/VERSION``.

    Returns:
        how it was verified, in words.

    Raises:
        LowrungError: when they differ, or the adapter changes less than loading does.
        TrackError: when MLflow cannot load the version.
    """
    from lowrung.adapters.answers import PromptedModel, answers_with_logits
    from lowrung.adapters.export import TEXTS

    bases = [PromptedModel(registered.base, format=registered.format)] if registered.adapter else []
    expected, *of_bases = answers_with_logits([registered, *bases], TEXTS, new_tokens=NEW_TOKENS)
    loaded = registry.ask(address, TEXTS, new_tokens=NEW_TOKENS, rows=registered.prompt_ids(TEXTS))
    answers = zip(TEXTS, loaded.answers, expected.texts, strict=True)
    wrong = [text for text, answer, right in answers if answer != right]
    if wrong:
        raise _refusal(
            f"{address} must answer as the model that was registered, but its answers to {len(wrong)} of {len(TEXTS)}"
            f" prompts differ, first to {wrong[0]!r}."
        )
    difference = expected.distance(loaded.logits)
    failures = difference.violations(_tolerance(registered, tolerances), FIRST)
    for base in of_bases:
        failures += difference.control_failures(expected.distance(base.logits).mean_kl, FIRST)
    if failures:
        raise _refusal(
            f"{address} must have the logits of the model that was registered, but only its answers are the same:"
            f" {'; '.join(failures)}."
        )
    alone = [sum(map(operator.eq, base.texts, expected.texts)) for base in of_bases]
    control = f" (the base alone: {alone[0]})" if alone else ""
    return (
        f"loaded by MLflow in a fresh process, it gives the same {len(TEXTS)} of {len(TEXTS)} answers{control}, and"
        f" max |Δlogit| is {difference.max_abs_logit_diff:.2g}"
    )


def _tolerance(model: "PromptedModel", tolerances: Mapping[str, "ToleranceConf"]) -> "ToleranceConf":
    """How far the gate lets a reloaded adapter be from the adapter, in the precision in which the model computes."""
    from lowrung.finetune.models import pretrained

    dtype = pretrained.dtype_for(model.base.dtype, pretrained.device())
    return tolerances[str(dtype).removeprefix("torch.")]


def _refusal(reason: str) -> LowrungError:
    return LowrungError(f"{reason} The version was deleted, and no alias was moved.")


# -- the folder that is registered -------------------------------------------------------------------------------------


def _write_merged(source: Source, folder: Path) -> tuple["PromptedModel", str]:
    """Writes the merged model; returns it, and its card without the head."""
    from lowrung.adapters.answers import PromptedModel
    from lowrung.config.schema import ModelConf

    run = source.candidate.run
    merge(run.adapter, folder)
    card = (folder / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)[1]
    return PromptedModel(ModelConf(str(folder)), format=format_of(run)), card


def _write_adapter(source: Source, folder: Path) -> tuple["PromptedModel", str]:
    """Writes the adapter with a card; returns it, and its card without the head."""
    from lowrung.adapters import compatibility, files, vocabulary
    from lowrung.adapters.answers import PromptedModel

    run = source.candidate.run
    found, config, saved = Named(source.candidate.name, run.adapter, run), config_of(run), files.read(run.adapter)
    base = base_for(found, saved, None)
    compatibility.check(saved, base)
    shutil.copytree(run.adapter, folder)
    vocabulary.ends_of(base, folder, format_of(run)).write(folder)  # a run of an older lowrung has not
    about = "A LoRA adapter trained by lowrung."
    card = model_card.body(found, saved, base, config, title=source.name, about=about)
    readme = model_card.with_head(card, base, library="peft", tags=("lora",))
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return PromptedModel(located(base), folder, format_of(run)), card


def _entry(source: Source, folder: Path, model: "PromptedModel", card: str) -> "Entry":
    from lowrung.adapters import answers, export, pyfunc_loader
    from lowrung.track.registry import Entry

    candidate, base = source.candidate, config_of(source.candidate.run)["model"]
    tags = {
        "lowrung.results": str(candidate.run.path),
        "lowrung.trial": candidate.trial,
        "lowrung.base": base["path"],
        "lowrung.base_revision": base["revision"],
        "lowrung.gate": "passed",
        "lowrung.objective": candidate.objective,
        "lowrung.objective_value": None if candidate.value is None else f"{candidate.value:.6g}",
    }
    return Entry(
        name=source.name,
        run=source.tracked,
        folder=folder,
        loader=Path(pyfunc_loader.__file__),
        settings=answers.loader_settings(model),
        example=export.TEXTS[0],
        packages=("bitsandbytes",) if model.base.quantization != "none" else (),
        identity=source.identity,
        tags={tag: str(value) for tag, value in tags.items() if value is not None},
        description=card.strip(),
    )
