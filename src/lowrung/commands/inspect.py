"""`lowrung inspect`: what an adapter is, and what is wrong with it."""

import argparse
import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands.arguments import ADAPTER, Commands, add_base
from lowrung.commands.names import Named, find_adapters
from lowrung.commands.run_inputs import base_for
from lowrung.errors import UsageError, blaming
from lowrung.report.tables import table
from lowrung.store.layout import RunFolder
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


def _run(chosen: argparse.Namespace) -> "Iterator[Inspection]":
    found = inspect(chosen.adapter, chosen.base, trust_remote_code=chosen.trust_remote_code)
    yield found
    if found.problems:
        raise UsageError(found.problems)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What an adapter is.

    Attributes:
        adapter: its folder.
        base: the base, as the run or the adapter names it.
        revision: the base's, as the adapter names it; null where it names none.
        added_tokens: the tokens that it adds to the base.
        run: the run that trained it; null where it is none of lowrung's.
        settings: how it was made.
        parameters: how many numbers it holds.
        layers: what it updates, by the kind of layer.
        problems: what is wrong with it, in words. The command's exit code is 2 where there are any.
    """

    adapter: Path
    base: str
    revision: str | None
    added_tokens: Sequence[str]
    run: "RunOf | None"
    settings: "Settings"
    parameters: int
    layers: "Sequence[Kind]"
    problems: Sequence[str]

    def __str__(self) -> str:
        """The adapter in words: base, settings, parameters, and a row for each kind of layer."""
        facts = {
            "adapter": str(self.adapter),
            "base": " at ".join(filter(None, (self.base, self.revision))),
            **({"adds": ", ".join(self.added_tokens)} if self.added_tokens else {}),
            **({"run": str(self.run)} if self.run else {}),
            "settings": str(self.settings),
            "parameters": f"{self.parameters:,}",
        }
        head = ["layer", "count", "rank", "scaling", "out x in", "mean ‖ΔW‖", "max ‖ΔW‖"]
        lines = [f"{fact:<10}  {value}" for fact, value in facts.items()]
        return "\n".join([*lines, "", table(head, [kind.row for kind in self.layers], left=("layer",))])


@dataclasses.dataclass(frozen=True)
class RunOf:
    """The run that trained an adapter.

    Attributes:
        signature: the run's.
        status: how it ended; ``unfinished`` where it has no outcome.
        gate: ``passed``, ``failed`` or ``not run``.
    """

    signature: str
    status: str
    gate: str

    def __str__(self) -> str:
        """In a line."""
        return f"{self.signature}, {self.status}, gate {self.gate}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an adapter was made.

    Attributes:
        methods: ``LoRA``, or ``DoRA`` and ``rsLoRA``.
        r: the rank, where no layer has another.
        alpha: scales the update by alpha / r.
        dropout: of the adapter's input in training.
        bias: which biases were trained: ``none``, ``all`` or ``lora_only``.
        modules_to_save: the modules that were trained whole.
        variants: what else is on of PEFT's options.
        rows: how many single rows were trained, by their matrix.
    """

    methods: Sequence[str]
    r: int
    alpha: float
    dropout: float
    bias: str
    modules_to_save: Sequence[str]
    variants: Sequence[str]
    rows: Mapping[str, int]

    def __str__(self) -> str:
        """In a line."""
        parts = [*self.methods, f"r {self.r}", f"alpha {self.alpha:g}", f"dropout {self.dropout:g}"]
        parts += [f"bias {self.bias}"] if self.bias != "none" else []
        parts += [f"whole {', '.join(self.modules_to_save)}"] if self.modules_to_save else []
        return ", ".join(
            [*parts, *self.variants, *(f"{count} rows of {matrix}" for matrix, count in self.rows.items())]
        )


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an adapter updates in all layers of one name.

    Attributes:
        layer: the end of the layers' names, such as ``q_proj``.
        count: how many layers.
        ranks: theirs.
        scalings: alpha / r, with rsLoRA alpha / sqrt(r).
        shapes: (out, in) of the updates; (experts, out, in) of experts.
        mean_norm: the mean of the updates' Frobenius norms; null where an update is no product of two factors.
        max_norm: the largest.
    """

    layer: str
    count: int
    ranks: Sequence[int]
    scalings: Sequence[float]
    shapes: Sequence[Sequence[int]]
    mean_norm: float | None
    max_norm: float | None

    @property
    def row(self) -> list[str]:
        """The cells of a table."""
        return [
            self.layer,
            str(self.count),
            "/".join(map(str, self.ranks)),
            "/".join(dict.fromkeys(f"{scaling:.4g}" for scaling in self.scalings)),
            "/".join(" x ".join(map(str, shape)) for shape in self.shapes),
            *("-" if norm is None else f"{norm:.4g}" for norm in (self.mean_norm, self.max_norm)),
        ]


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
        if problems:
            return _inspection(found, saved, origin, updates.layers(saved), problems)
        saved = compatibility.as_installed(saved, origin)
        slots = injected.slots(injected.model(saved.config, origin))
        return _inspection(found, saved, origin, updates.layers(saved, slots), problems)


def _inspection(
    found: Named, saved: "Saved", base: "ModelConf", layers: Sequence["Layer"], problems: Sequence[str]
) -> Inspection:
    return Inspection(
        adapter=found.folder,
        base=base.path,
        revision=saved.config.revision,
        added_tokens=base.added_tokens,
        run=_run_of(found.run) if found.run else None,
        settings=_settings(saved),
        parameters=saved.parameters,
        layers=[_kind(kind, of_kind) for kind, of_kind in _by_kind(layers).items()],
        problems=problems,
    )


def _run_of(run: RunFolder) -> RunOf:
    outcome = Outcome.read(run.outcome)
    return RunOf(run.path.name, str(outcome.status) if outcome else "unfinished", gate(outcome))


def gate(outcome: Outcome | None) -> str:
    """The gate's result in a word."""
    passed = outcome.passed_gate if outcome else None
    return "not run" if passed is None else "passed" if passed else "failed"


def _settings(saved: "Saved") -> Settings:
    from lowrung.adapters import options

    config = saved.config
    kinds = [name for name, used in (("DoRA", config.use_dora), ("rsLoRA", config.use_rslora)) if used]
    return Settings(
        methods=kinds or ["LoRA"],
        r=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        bias=config.bias,
        modules_to_save=list(config.modules_to_save or ()),
        variants=[name for name in options.variants(config) if name != "use_dora"],
        rows={matrix: len(numbers) for matrix, numbers in _rows(config.trainable_token_indices).items()},
    )


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


def _kind(kind: str, layers: Sequence["Layer"]) -> Kind:
    norms = [layer.norm for layer in layers if layer.norm is not None]
    return Kind(
        layer=kind,
        count=len(layers),
        ranks=sorted({layer.rank for layer in layers}),
        scalings=sorted({layer.scaling for layer in layers}),
        shapes=sorted({layer.shape for layer in layers}),
        mean_norm=statistics.fmean(norms) if norms else None,
        max_norm=max(norms) if norms else None,
    )
