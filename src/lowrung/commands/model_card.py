"""The model card of an adapter or a merged model: base, settings, data, metrics and the gate's result."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrung.commands.inspect import gate
from lowrung.commands.names import Named
from lowrung.commands.run_inputs import format_of
from lowrung.report.tables import number
from lowrung.store.outcome import Outcome

if TYPE_CHECKING:
    from lowrung.adapters.files import Saved
    from lowrung.config.schema import ModelConf


def body(
    found: Named,
    saved: "Saved",
    base: "ModelConf",
    config: Mapping[str, Any],
    *,
    title: str,
    about: str,
    verified: str | None = None,
) -> str:
    """The card in Markdown: base, adapter, data, training, metrics and the gate's result.

    Args:
        found: the adapter, and its run where it has one.
        saved: the adapter as it was saved.
        base: what it was trained on.
        config: the run's; empty without a run.
        title: the heading.
        about: what it is, in a sentence.
        verified: how this very folder was verified, where it was.
    """
    outcome = Outcome.read(found.run.outcome) if found.run else None
    sections = [
        f"# {title}",
        about,
        _section("Base", _base_facts(base)),
        _section("Adapter", _adapter_facts(found, saved)),
        _section("Answers", _answer_facts(found, base)),
    ]
    if found.run:
        sections += [_section(name, config[key]) for name, key in (("Data", "data"), ("Training", "train"))]
    if outcome:
        sections.append(_section("Metrics", {name: number(value) for name, value in sorted(outcome.metrics.items())}))
        sections.append(f"## Gate\n\nThe merged-vs-adapter gate after training: {gate(outcome)}.")
    if verified:
        sections.append(f"## Verified\n\n{verified}")
    return "\n\n".join(sections) + "\n"


def with_head(body: str, base: "ModelConf", *, library: str, tags: Sequence[str]) -> str:
    """The card with the head that model hubs read.

    Args:
        body: the card.
        base: what the adapter was trained on.
        library: what loads it.
        tags: what it is found by.
    """
    from omegaconf import OmegaConf

    from lowrung.finetune.models import pretrained

    head: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation", "tags": [*tags, "lowrung"]}
    origin, _ = pretrained.origin_of(base)
    if not Path(origin).is_absolute():  # a path says nothing elsewhere, and the hub takes ids alone
        head["base_model"] = origin
    return f"---\n{OmegaConf.to_yaml(OmegaConf.create(head))}---\n\n{body}"


def _base_facts(base: "ModelConf") -> dict[str, Any]:
    from lowrung.finetune.models import pretrained
    from lowrung.finetune.models.embedded import ABOUT

    tokens = ", ".join(f"`{token}`" for token in base.added_tokens).replace("|", "\\|")
    return {
        "model": base.path,
        "which is": ABOUT.get(base.path.removeprefix("embedded:")) if base.path.startswith("embedded:") else None,
        "revision": pretrained.origin_of(base)[1] or "none",
        "quantised": base.quantization,
        "added tokens": tokens,
    }


def _adapter_facts(found: Named, saved: "Saved") -> dict[str, Any]:
    facts: dict[str, Any] = {"run": found.run.path.name} if found.run else {}
    settings = saved.config
    return {
        **facts,
        "rank": settings.r,
        "alpha": settings.lora_alpha,
        "rsLoRA": settings.use_rslora,
        "DoRA": settings.use_dora,
        "modules": ", ".join(sorted(settings.target_modules or ())),
        "parameters": f"{saved.parameters:,}",
    }


def _answer_facts(found: Named, base: "ModelConf") -> dict[str, Any]:
    """Where answers end, as generation_config.json says it, and what that file has no words for."""
    from lowrung.adapters.vocabulary import ends_of, tokenizer_of

    ends = ends_of(base, found.folder, format_of(found.run))
    tokenizer = tokenizer_of(base, found.folder)
    tokens = ", ".join(f"`{tokenizer.decode([id])}`" for id in ends.tokens).replace("|", "\\|")
    text = f"`{ends.text!r}`: pass it to `generate` as `stop_strings`, to vLLM as `stop`".replace("|", "\\|")
    return {"end with": tokens, "end with the text": text if ends.text else None}


def _section(title: str, facts: Mapping[str, Any]) -> str:
    """A table of what is set."""
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, [], {}, "")]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *rows])
