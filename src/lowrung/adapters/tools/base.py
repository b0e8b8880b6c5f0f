"""What every tool is given of a run: its settings, its rows as tokens, its base; and what no tool can do."""

import abc
import dataclasses
import enum
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from datasets import Dataset
from omegaconf import OmegaConf
from safetensors import safe_open
from trl import SFTConfig

from lowrung.adapters.tools import refusals
from lowrung.config import structured
from lowrung.config.schema import Config, ModelConf
from lowrung.errors import UsageError
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.models import pretrained
from lowrung.finetune.training.trainer import arguments
from lowrung.store import atomic, layout, records
from lowrung.store.layout import RunFolder

_NARROWED_BY = ("layers_to_transform", "layers_pattern", "exclude_modules")
"""PEFT's settings that leave out layers whose names `target_modules` has."""


@dataclasses.dataclass(frozen=True)
class Export(abc.ABC):
    """A run for another tool.

    Attributes:
        run: the run.
        config: its config.
        environment: what was recorded with it.
    """

    TOOL: ClassVar[str]
    """The tool's name, as ``--to`` takes it."""

    COMMAND: ClassVar[Sequence[str]]
    """What trains; the config file's name comes behind it."""

    CONFIG: ClassVar[str]
    """The name of the config file."""

    DATA: ClassVar[str] = "data"
    """The folder of the rows."""

    run: RunFolder
    config: Config
    environment: Mapping[str, Any]

    @classmethod
    def of(cls, run: RunFolder) -> Self:
        """Reads a run.

        Raises:
            UsageError: with each of its problems.
        """
        structured.register()
        made = cls(run, structured.resolve(OmegaConf.load(run.config)), records.read(run.environment))
        if problems := made.problems():
            raise UsageError(problems)
        return made

    def problems(self) -> list[str]:
        """Why the tool cannot do what the run did, and what the run has lost."""
        problems = list(refusals.of_every_tool(self.TOOL, self.config, self.environment["device"]))
        if not self.config.lora.is_full:
            problems += [*self.refusals(self.config), *self._gone(), *self._changed_base()]
            problems += self.base_refusals() if self._tokens.is_dir() else ()
        return problems

    def write(self, aside: Path, folder: Path) -> None:
        """Writes the config and the rows.

        Args:
            aside: an empty folder.
            folder: where that one will be.
        """
        (aside / self.DATA).mkdir()
        self.write_rows(self.data.train, aside / self.DATA)
        head = f"# Written by lowrung from {self.run.path}\n# {' '.join([*self.COMMAND, str(folder / self.CONFIG)])}\n"
        notes = "".join(f"# {note}\n" for note in self.notes)
        atomic.write_text(aside / self.CONFIG, head + notes + OmegaConf.to_yaml(OmegaConf.create(self.values(folder))))

    @staticmethod
    @abc.abstractmethod
    def refusals(config: Config) -> Iterator[str]:
        """The settings of an adapter's run that the tool cannot express, beside those that no tool can."""

    def base_refusals(self) -> Iterator[str]:
        """Why the tool would not load this base, or not adapt it, as lowrung does."""
        yield from ()

    @abc.abstractmethod
    def values(self, folder: Path) -> dict[str, Any]:
        """The tool's config: all that determines what is trained, the tool's own defaults included.

        Args:
            folder: where the config will be, with the rows beside it.
        """

    @abc.abstractmethod
    def write_rows(self, rows: Dataset, folder: Path) -> None:
        """Writes the rows to train on in the tool's form, in their order."""

    @property
    @abc.abstractmethod
    def notes(self) -> list[str]:
        """What the tool does otherwise, or what must be known of what was written."""

    # -- what is read of the run -------------------------------------------------------------------------------------

    @functools.cached_property
    def adapter(self) -> Mapping[str, Any]:
        """PEFT's settings, as they were saved."""
        read: dict[str, Any] = json.loads((self.run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return read

    @functools.cached_property
    def data(self) -> Prepared:
        """The rows as tokens."""
        return Prepared.load(self._tokens)

    @functools.cached_property
    def given(self) -> SFTConfig:
        """What lowrung's own trainer was given."""
        config = self.config
        return arguments(
            config.train,
            rows=len(self.data.train),
            max_length=config.data.max_length,
            seed=config.seed,
            checkpoints=self.run.checkpoints,
        )

    @property
    def warmup_steps(self) -> int:
        """How many steps the rate rises for; a share is rounded by each tool's version of transformers otherwise."""
        return int(self.given.get_warmup_steps(self.given.max_steps))

    @property
    def optimizer(self) -> str:
        """By its name in transformers; with LoRA+ lowrung's AdamW is not the fused one, which rounds otherwise."""
        is_plain = self.config.lora.lora_plus_ratio is not None and "optim" not in self.config.train.sft
        return "adamw_torch" if is_plain else str(plain(self.given.optim))

    @property
    def base(self) -> str:
        """The base model's folder, or its id on the hub."""
        model = self.config.model
        return str(pretrained.folder_of(model)) if _is_local(model) else model.path

    @property
    def revision(self) -> str | None:
        """Of a base on the hub, the commit that was trained on; else None."""
        return None if _is_local(self.config.model) else pretrained.origin_of(self.config.model)[1]

    @property
    def dtype(self) -> str:
        """The precision that it was trained in."""
        model, device = self.config.model, self.environment["device"]
        if model.dtype != "auto":
            return model.dtype
        here = str(pretrained.dtype_for("auto", pretrained.device())).removeprefix("torch.")
        return "float32" if device == "cpu" else here

    @property
    def targets(self) -> list[str]:
        """The adapted layers: kinds of layers by the ends of their names, or where these say too little, each layer."""
        kinds = self.adapter["target_modules"]
        if isinstance(kinds, str) or any(self.adapter.get(name) for name in _NARROWED_BY):
            return self._layers
        return sorted(kinds or ())

    @property
    def _layers(self) -> list[str]:
        """The whole name of each layer that has an A."""
        with safe_open(self.run.adapter / "adapter_model.safetensors", framework="pt") as weights:
            names = [name.removeprefix("base_model.model.") for name in weights.keys()]  # noqa: SIM118
        return sorted({name.split(f".{part}")[0] for name in names for part in _PARTS if f".{part}" in name})

    @property
    def common_notes(self) -> list[str]:
        """What must be known of a run in any tool."""
        notes = [f"{self.TOOL} does not evaluate, verifies no merge, and keeps only the last adapter"]
        if self.config.model.path.startswith("embedded:"):
            notes.append(f"the base comes with lowrung: {self.base} is its folder, to be copied with the config")
        if self.config.lora.use_dora and self.dtype != "float32":
            notes.append(f"DoRA's magnitudes start from norms in float32 here, and in the base's in {self.TOOL}")
        if self.config.model.device_map:
            notes.append(f"model.device_map is the launcher's business in {self.TOOL}, and was left out")
        if (train := self.config.train).parallel != "none":
            notes.append(
                f"the run had {train.ranks} ranks by {train.parallel}; this is for one process, with the same examples"
                " a step"
            )
        return notes

    @property
    def _tokens(self) -> Path:
        return layout.tokens_folder(self.run.path.parent, self.environment["tokens"])

    def _gone(self) -> Iterator[str]:
        if not self._tokens.is_dir():
            yield f"The run's rows must be in {self._tokens}, but are gone. Start its sweep again: it makes them."

    def _changed_base(self) -> Iterator[str]:
        """A base that is not the one that was trained on: the config would name it all the same."""
        folder = pretrained.folder_of(self.config.model)
        kept = layout.fingerprints_folder(self.run.path.parent)
        if pretrained.fingerprint(folder, kept) != self.environment["model_fingerprint"]:
            yield (
                f"model.path={self.config.model.path} must be the base that was trained on, but {folder} holds another"
                " one by now. Train again, or put the old one back."
            )


_PARTS = ("lora_A.", "lora_embedding_A")


def _is_local(model: ModelConf) -> bool:
    return model.path.startswith("embedded:") or Path(model.path).expanduser().exists()


def plain(value: Any) -> Any:
    """A value of transformers' as a config file has it: the text of an enum's member."""
    return value.value if isinstance(value, enum.Enum) else value


def tokens_with_masks(rows: Dataset) -> Dataset:
    """Rows with the column ``attention_mask``, all ones: nothing is padded yet."""
    masks = [[1] * len(tokens) for tokens in rows["input_ids"]]
    named: Dataset = rows.add_column("attention_mask", masks)
    return named
