"""`lowrung merge`: an adapter as an ordinary model, verified and with a card."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrung.commands import model_card
from lowrung.commands.arguments import ADAPTER, Commands, add_base
from lowrung.commands.names import Named, find_adapters
from lowrung.commands.run_inputs import base_for, config_of, held_out
from lowrung.errors import UsageError
from lowrung.store import disk
from lowrung.store.layout import ROOT

if TYPE_CHECKING:
    from lowrung.adapters.export import Shipped
    from lowrung.adapters.files import Saved
    from lowrung.config.schema import ModelConf

ABOUT = (
    "Adds an adapter to its base's weights and saves an ordinary model with its tokenizer, generation config and a"
    " model card. The update is added in float32 and rounded once. What was saved is reloaded and compared with the"
    " adapter; where they differ, nothing is kept and the exit code is 1."
)

DTYPES = ("float32", "bfloat16", "float16")  # lowrung.config.schema's, whose import would slow --help down


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("merge", help="make an adapter an ordinary, verified model", description=ABOUT)
    parser.add_argument("adapter", metavar="ADAPTER", help=ADAPTER)
    parser.add_argument("--to", metavar="FOLDER", required=True, help="where to: empty, or not there yet")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="the precision that is saved (default: the one that its run was verified in)"
    )
    add_base(parser)
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> None:
    trusted = chosen.trust_remote_code
    print(merge(chosen.adapter, chosen.to, base=chosen.base, dtype=chosen.dtype, trust_remote_code=trusted))


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
    (found,) = find_adapters([name], Path.cwd())
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
    from omegaconf import OmegaConf

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


def _card(found: Named, saved: "Saved", base: "ModelConf", config: Mapping[str, Any], made: "Shipped") -> str:
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
