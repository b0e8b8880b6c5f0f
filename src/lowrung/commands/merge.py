"""`lowrung merge`: an adapter as an ordinary model, verified and with a card."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrung.commands import model_card
from lowrung.commands.arguments import ADAPTER, Commands, add_base
from lowrung.commands.names import Named, find_adapters
from lowrung.commands.run_inputs import base_for, config_of, format_of, held_out
from lowrung.errors import UsageError, blaming
from lowrung.store import disk
from lowrung.store.layout import ROOT

if TYPE_CHECKING:
    from lowrung.adapters.export import MergedModel
    from lowrung.adapters.files import Saved
    from lowrung.config.schema import ModelConf, VerifyConf

ABOUT = (
    "Adds an adapter to its base's weights and saves an ordinary model with its tokenizer, generation config and a"
    " model card. The update is added in float32 and rounded once. What was saved is reloaded and compared with the"
    " adapter; where they differ, nothing is kept and the exit code is 1."
)

DTYPES = ("float32", "bfloat16", "float16")  # lowrung.config.schema's, whose import would slow --help down


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "merge", help="merge an adapter into its base: an ordinary model, verified", description=ABOUT
    )
    parser.add_argument("adapter", metavar="ADAPTER", help=ADAPTER)
    parser.add_argument("--to", metavar="FOLDER", required=True, help="the new folder: empty, or not there yet")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="the precision that is saved (default: the one that its run was verified in)"
    )
    add_base(parser)
    parser.set_defaults(command=_run)


@dataclasses.dataclass(frozen=True)
class Merged:
    """A merged model.

    Attributes:
        folder: where it is.
        dtype: its precision.
        verified: how it was verified, in words.
        difference: of the model as reloaded from the adapter on its base in float32: ``max_abs_logit_diff``,
            ``mean_kl`` in nats, ``top1_agreement`` as a share, and ``eval_loss_delta`` in nats.
        effect: mean KL between the base and the adapter, in nats: how much there was to merge.
    """

    folder: Path
    dtype: str
    verified: str
    difference: Mapping[str, float]
    effect: float

    def __str__(self) -> str:
        """Where it is, and how it was verified."""
        return f"merged:    {self.folder} ({self.dtype})\nverified:  {self.verified}"


def _run(chosen: argparse.Namespace) -> Merged:
    trusted = chosen.trust_remote_code
    merged = merge(chosen.adapter, chosen.to, base=chosen.base, dtype=chosen.dtype, trust_remote_code=trusted)
    difference = dataclasses.asdict(merged.difference)
    return Merged(merged.folder, merged.dtype, merged.verified, difference, merged.effect)


def merge(
    adapter: str | Path,
    to: str | Path,
    *,
    base: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> "MergedModel":
    """Merges an adapter into its base and saves an ordinary model, with its tokenizer and a model card.

    The update is added in float32 and rounded once. What was saved is reloaded and compared with the adapter; where
    they differ, nothing is kept.

    Args:
        adapter: the adapter's folder, its run (``runs/<signature>``, its signature, or MLflow's id), or its trial
            (``<study>/<n>``); relative to the current folder.
        to: a folder that is empty or not there yet.
        base: where the base is: a folder, a hub id or ``embedded:NAME``; None is where the adapter says.
        dtype: the precision that is saved, ``float32``, ``bfloat16`` or ``float16``; None is the one in which the run's
            gate verified a merge (``verify.merge_dtype``), and lowrung's default where there is no run.
        trust_remote_code: run Python code that comes with the base.

    Returns:
        the folder, and how far the model in it is from the adapter.

    Raises:
        UsageError: when the adapter or its base is bad, or nothing can be written there.
        LowrungError: when the merged model differs from the adapter.
    """
    folder = Path(to).expanduser().absolute()
    if problems := disk.unwritable("--to", folder):
        raise UsageError(problems)
    (found,) = find_adapters([str(adapter)], Path.cwd())
    from lowrung.adapters import export, files

    saved = files.read(found.folder)
    with blaming(str(adapter)):
        origin = base_for(found, saved, base, trust_remote_code=trust_remote_code)
        config = config_of(found.run) if found.run else {}
        gate = gate_settings(config)
    dtype = dtype or gate.merge_dtype
    return export.export(
        base=origin,
        adapter=found.folder,
        folder=folder,
        dtype=dtype,
        format=format_of(found.run),
        rows=held_out(found.run)[: gate.prompts] if found.run else [],
        tolerance=gate.tolerances[dtype],
        card=lambda merged: _card(found, saved, origin, config, merged),
    )


def gate_settings(config: Mapping[str, Any]) -> "VerifyConf":
    """The gate's settings of a run's config; lowrung's own where it does not have them."""
    from omegaconf import OmegaConf

    from lowrung.config import schema, structured

    default = OmegaConf.load(ROOT / "conf" / "verify" / "default.yaml")
    values: Any = OmegaConf.merge(default, config.get("verify", {}))
    return structured.typed(schema.VerifyConf, values)


def _card(found: Named, saved: "Saved", base: "ModelConf", config: Mapping[str, Any], merged: "MergedModel") -> str:
    body = model_card.body(
        found,
        saved,
        base,
        config,
        title=merged.folder.name,
        about=f"A LoRA adapter merged into its base by lowrung, in {merged.dtype}.",
        verified=f"This folder was {merged.verified}.",
    )
    return model_card.with_head(body, base, library="transformers", tags=("lora", "merged"))
