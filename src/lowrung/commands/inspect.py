"""`lowrung inspect`: what an adapter is, and what is wrong with it."""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands.arguments import ADAPTER, Commands, add_base
from lowrung.commands.names import Named, find_adapters
from lowrung.commands.run_inputs import base_for
from lowrung.errors import UsageError, blaming
from lowrung.report.tables import table
from lowrung.store.outcome import Outcome

if TYPE_CHECKING:
    from lowrung.adapters.files import Saved
    from lowrung.adapters.updates import Layer
    from lowrung.config.schema import ModelConf

ABOUT = (
    "Prints what an adapter is: its base, ranks, parameters, the norms of its updates, and what is wrong with it."
    " The base's weights are not loaded. Exit code 2 where there are problems."
)


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("inspect", help="show what an adapter is and what is wrong with it", description=ABOUT)
    parser.add_argument("adapter", metavar="ADAPTER", help=ADAPTER)
    add_base(parser)
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> None:
    found = inspect(chosen.adapter, chosen.base, trust_remote_code=chosen.trust_remote_code)
    print(found.text)
    if found.problems:
        raise UsageError(found.problems)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        text: the adapter in words: base, settings, parameters, and a row for each kind of layer.
        problems: what is wrong with it, in words.
    """

    text: str
    problems: Sequence[str]


def inspect(name: str, base: str | None, *, trust_remote_code: bool = False) -> Inspection:
    """Inspects an adapter, and its base without loading the base's weights.

    Args:
        name: the adapter's folder, run or trial.
        base: where its base is, instead of where the adapter says.
        trust_remote_code: run Python code that comes with the base.

    Raises:
        UsageError: when there is no such adapter, or it cannot be read.
    """
    from lowrung.adapters import compatibility, files, injected, updates

    (found,) = find_adapters([name], Path.cwd())
    saved = files.read(found.folder)
    with blaming(name):
        origin = base_for(found, saved, base, trust_remote_code=trust_remote_code)
        problems = compatibility.problems(saved, origin)
        slots = None if problems else injected.slots(injected.model(saved.config, origin))
        return Inspection(_text(found, saved, origin, updates.layers(saved, slots)), problems)


def _text(found: Named, saved: "Saved", base: "ModelConf", layers: Sequence["Layer"]) -> str:
    facts = {
        "adapter": str(found.folder),
        "base": " at ".join(filter(None, (base.path, saved.config.revision))),
        **({"adds": ", ".join(base.added_tokens)} if base.added_tokens else {}),
        **({"run": _run_of(found)} if found.run else {}),
        "settings": _settings(saved),
        "parameters": f"{saved.parameters:,}",
    }
    rows = [_row(kind, of_kind) for kind, of_kind in _by_kind(layers).items()]
    head = ["layer", "count", "rank", "scaling", "out x in", "mean ‖ΔW‖", "max ‖ΔW‖"]
    lines = [f"{fact:<10}  {value}" for fact, value in facts.items()]
    return "\n".join([*lines, "", table(head, rows, left=("layer",))])


def _run_of(found: Named) -> str:
    assert found.run is not None
    outcome = Outcome.read(found.run.outcome)
    return f"{found.run.path.name}, {outcome.status if outcome else 'unfinished'}, gate {gate(outcome)}"


def gate(outcome: Outcome | None) -> str:
    """The gate's result in a word."""
    passed = outcome.passed_gate if outcome else None
    return "not run" if passed is None else "passed" if passed else "failed"


def _settings(saved: "Saved") -> str:
    from lowrung.adapters import options

    config = saved.config
    kinds = [name for name, used in (("DoRA", config.use_dora), ("rsLoRA", config.use_rslora)) if used]
    parts = [*(kinds or ["LoRA"]), f"r {config.r}", f"alpha {config.lora_alpha:g}", f"dropout {config.lora_dropout:g}"]
    parts += [f"bias {config.bias}"] if config.bias != "none" else []
    parts += [f"whole {', '.join(config.modules_to_save)}"] if config.modules_to_save else []
    parts += [name for name in options.variants(config) if name != "use_dora"]
    parts += [f"{len(numbers)} rows of {matrix}" for matrix, numbers in _rows(config.trainable_token_indices).items()]
    return ", ".join(parts)


def _rows(trained: Sequence[int] | Mapping[str, Sequence[int]] | None) -> Mapping[str, Sequence[int]]:
    """The single rows that are trained, by their matrix; PEFT takes a list to be the embedding's."""
    if trained is None:
        return {}
    return trained if isinstance(trained, Mapping) else {"the embedding": trained}


def _by_kind(layers: Sequence["Layer"]) -> Mapping[str, list["Layer"]]:
    kinds: dict[str, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault(layer.name.rsplit(".", 1)[-1], []).append(layer)
    return kinds


def _row(kind: str, layers: Sequence["Layer"]) -> list[str]:
    norms = [layer.norm for layer in layers if layer.norm is not None]
    return [
        kind,
        str(len(layers)),
        "/".join(map(str, sorted({layer.rank for layer in layers}))),
        "/".join(f"{scaling:.4g}" for scaling in sorted({layer.scaling for layer in layers})),
        "/".join(sorted({" x ".join(map(str, layer.shape)) for layer in layers})),
        f"{statistics.fmean(norms):.4g}" if norms else "-",
        f"{max(norms):.4g}" if norms else "-",
    ]
