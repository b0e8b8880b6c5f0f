"""`lowrung merge`: an adapter as an ordinary model, verified and with a card."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lowrung.commands import model_card, names
from lowrung.commands.names import Named
from lowrung.commands.run_inputs import base_for, config_of, held_out
from lowrung.errors import UsageError
from lowrung.store import disk
from lowrung.store.layout import ROOT

if TYPE_CHECKING:
    from lowrung.adapters.export import Shipped
    from lowrung.adapters.files import Saved
    from lowrung.finetune.models.pretrained import Base


def merge(name: str, to: str, *, base: str | None, dtype: str | None, trust_remote_code: bool = False) -> str:
    """Merges an adapter into its base, verifies the result as reloaded from the disk, and writes its card.

    Args:
        name: the adapter's folder, run or trial.
        to: a folder that is empty or not there yet.
        base: where its base is, instead of where the adapter says.
        dtype: the precision that is saved; None is the one that the run's gate looked at (``verify.merge_dtype``), and
            lowrung's default where there is no run.
        trust_remote_code: run Python code that comes with the base.

    Returns:
        what was made and how it was verified, for people.

    Raises:
        UsageError: when the adapter or its base is bad, or nothing can be written there.
        LowrungError: when the merged model is not what the adapter is.
    """
    folder = Path(to).expanduser().absolute()
    if problems := disk.unwritable("--to", folder):
        raise UsageError(problems)
    (found,) = names.adapters([name], Path.cwd())
    from lowrung.adapters import files
    from lowrung.adapters.export import ship
    from lowrung.config.schema import ToleranceConf

    saved = files.read(found.folder)
    origin = base_for(found, saved, base, trust_remote_code=trust_remote_code)
    config = config_of(found.run) if found.run else {}
    gate = gate_settings(config)
    shipped = ship(
        base=origin,
        adapter=found.folder,
        folder=folder,
        dtype=dtype or gate["merge_dtype"],
        rows=held_out(found.run)[: gate["prompts"]] if found.run else [],
        tolerances={name: ToleranceConf(**limits) for name, limits in gate["tolerances"].items()},
        card=lambda made: _card(found, saved, origin, config, made),
    )
    return "\n".join([f"merged:    {shipped.folder} ({shipped.dtype})", f"verified:  {_verified(shipped)}"])


def gate_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The run's ``verify``, and lowrung's own for all that it does not say."""
    default = OmegaConf.load(ROOT / "conf" / "verify" / "default.yaml")
    settings: Any = OmegaConf.to_container(OmegaConf.merge(default, config.get("verify", {})))
    return dict(settings)


def _verified(shipped: "Shipped") -> str:
    difference = shipped.difference
    return (
        f"reloaded from the disk and compared with the adapter in float32 on {shipped.examples}: max |Δlogit|"
        f" {difference.max_abs_logit_diff:.2g}, mean KL {difference.mean_kl:.2g} (the adapter's own effect:"
        f" {shipped.effect:.2g}), top-1 agreement {difference.top1_agreement:.4f}"
    )


def _card(found: Named, saved: "Saved", base: "Base", config: Mapping[str, Any], made: "Shipped") -> str:
    body = model_card.body(
        found,
        saved,
        base,
        config,
        title=made.folder.name,
        about=f"A LoRA adapter merged into its base by lowrung, in {made.dtype}.",
        verified=f"This folder was {_verified(made)}.",
    )
    return model_card.with_head(body, base, library="transformers", tags=("lora", "merged"))
