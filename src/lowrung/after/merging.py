"""`lowrung merge`: an adapter as an ordinary model, verified and with a card."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lowrung import disk
from lowrung.after import inspection, named
from lowrung.after.bases import base_for, config_of, held_out
from lowrung.after.named import Named
from lowrung.errors import UsageError
from lowrung.layout import ROOT
from lowrung.outcome import Outcome

if TYPE_CHECKING:
    from lowrung.adapters.difference import Tolerance
    from lowrung.adapters.saved import Saved
    from lowrung.adapters.ship import Shipped
    from lowrung.finetune.model import Base


def merge(name: str, to: str, *, base: str | None, dtype: str | None) -> str:
    """Merges an adapter into its base, verifies the result as reloaded from the disk, and writes its card.

    Args:
        name: the adapter's folder, run or trial.
        to: a folder that is empty or not there yet.
        base: where its base is, instead of where the adapter says.
        dtype: the precision that is saved; None is the base's own.

    Returns:
        what was made and how it was verified, for people.

    Raises:
        UsageError: when the adapter or its base is bad, or nothing can be written there.
        LowrungError: when the merged model is not what the adapter is.
    """
    folder = Path(to).expanduser().absolute()
    if problems := disk.unwritable("--to", folder):
        raise UsageError(problems)
    (found,) = named.adapters([name], Path.cwd())
    from lowrung.adapters import saved as files
    from lowrung.adapters.ship import ship

    saved = files.read(found.folder)
    origin = base_for(found, saved, base)
    config = config_of(found.run) if found.run else {}
    shipped = ship(
        base=origin,
        adapter=found.folder,
        folder=folder,
        dtype=dtype,
        rows=held_out(found.run)[: config["verify"]["prompts"]] if found.run else [],
        tolerances=_tolerances(config),
        card=lambda made: _card(found, saved, origin, config, made),
    )
    return "\n".join([f"merged:    {shipped.folder} ({shipped.dtype})", f"verified:  {_verified(shipped)}"])


def _tolerances(config: Mapping[str, Any]) -> dict[str, "Tolerance"]:
    """The run's, and lowrung's own for dtypes that it has none for."""
    from lowrung.adapters.difference import Tolerance

    default: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "verify" / "default.yaml"))
    limits = {**default["tolerances"], **config.get("verify", {}).get("tolerances", {})}
    return {dtype: Tolerance(**limit) for dtype, limit in limits.items()}


def _verified(shipped: "Shipped") -> str:
    difference = shipped.difference
    return (
        f"reloaded from the disk and compared with the adapter in float32 on {shipped.examples}: max |Δlogit|"
        f" {difference.max_abs_logit_diff:.2g}, mean KL {difference.mean_kl:.2g} (the adapter's own effect:"
        f" {shipped.effect:.2g}), top-1 agreement {difference.top1_agreement:.4f}"
    )


# -- the card ----------------------------------------------------------------------------------------------------------


def _card(found: Named, saved: "Saved", base: "Base", config: Mapping[str, Any], made: "Shipped") -> str:
    origin, revision = base.origin
    outcome = Outcome.read(found.run.outcome) if found.run else None
    # A path says nothing elsewhere, and the hub takes ids alone.
    head = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["lora", "merged", "lowrung"]}
    if not Path(origin).is_absolute():
        head["base_model"] = origin
    sections = [
        f"---\n{OmegaConf.to_yaml(OmegaConf.create(head))}---",
        f"# {made.folder.name}",
        f"A LoRA adapter merged into its base by lowrung, in {made.dtype}.",
        _section("Base", _base_facts(base, revision)),
        _section("Adapter", _adapter_facts(found, saved)),
    ]
    if found.run:
        sections += [_section(title, config[key]) for title, key in (("Data", "data"), ("Training", "train"))]
    if outcome:
        sections.append(_section("Metrics", {name: f"{value:.6g}" for name, value in sorted(outcome.metrics.items())}))
        sections.append(f"## Gate\n\nThe merged-vs-adapter gate after training: {inspection.gate(outcome)}.")
    sections.append(f"## Verified\n\nThis folder was {_verified(made)}.")
    return "\n\n".join(sections) + "\n"


def _base_facts(base: "Base", revision: str | None) -> dict[str, Any]:
    tokens = ", ".join(f"`{token}`" for token in base.added_tokens).replace("|", "\\|")
    return {
        "model": base.path,
        "revision": revision or "none",
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


def _section(title: str, facts: Mapping[str, Any]) -> str:
    """A table of what is set."""
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, [], {}, "")]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *rows])
