"""A run as a config file for ``trl sft``, with its rows as tokens.

The names are those of TRL 1.16's `SFTConfig`, `ModelConfig` and `ScriptArguments` (trl/scripts/sft.py), and the values
of `SFTConfig` are those that lowrung's own trainer is given.
"""

import dataclasses
import enum
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lowrung.config import schema
from lowrung.config.schema import Config, LoraConf, ModelConf, TrainConf
from lowrung.errors import UsageError
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.models import pretrained
from lowrung.finetune.training.trainer import arguments
from lowrung.store import atomic, layout, records
from lowrung.store.layout import RunFolder

CONFIG, DATA = "sft.yaml", "data"
"""What is written: TRL's config file, and the folder with the rows."""

_OF_TRAINER = (
    *("learning_rate", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type"),
    *("warmup_steps", "weight_decay", "max_grad_norm", "max_length", "seed", "logging_steps", "logging_nan_inf_filter"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "bf16", "report_to", "dataset_kwargs"),
)
"""The fields of `SFTConfig` that are taken over, beside those of ``train.sft``."""

_HEAD = "# Written by lowrung from {run}\n# trl sft --config {file}\n"


@dataclasses.dataclass(frozen=True)
class Export:
    """What is written of a run.

    Attributes:
        run: the run.
        config: its config.
        adapter: PEFT's settings, as they were saved.
        data: the rows.
        base: the base model's folder, or its id on the hub.
        dtype: the precision that it was trained in.
    """

    run: RunFolder
    config: Config
    adapter: Mapping[str, Any]
    data: Prepared
    base: str
    dtype: str

    @classmethod
    def of(cls, run: RunFolder) -> "Export":
        """Reads a run.

        Raises:
            UsageError: when TRL cannot do what it did, with each reason, or when its rows are gone.
        """
        schema.register()
        config = schema.resolve(OmegaConf.load(run.config))
        environment = records.read(run.environment)
        if problems := [*_problems(config), *_device_problems(config.model, environment["device"])]:
            raise UsageError(problems)
        tokens = layout.tokens_folder(run.path.parent, environment["tokens"])
        if not tokens.is_dir():
            raise UsageError(f"The run's rows must be in {tokens}, but are gone. Start its sweep again: it makes them.")
        adapter = json.loads((run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        model = config.model
        is_local = model.path.startswith("embedded:") or Path(model.path).expanduser().exists()
        base = str(pretrained.folder_of(model)) if is_local else model.path
        return cls(run, config, adapter, Prepared.load(tokens), base, _dtype(model, environment["device"]))

    @property
    def notes(self) -> list[str]:
        """What TRL does otherwise, or what must be known of what was written."""
        notes = ["trl sft does not evaluate, verifies no merge, and keeps only the last checkpoint"]
        if self.config.model.path.startswith("embedded:"):
            notes.append(f"the base comes with lowrung: {self.base} is its folder, to be copied with the config")
        if self.config.lora.use_dora and self.dtype != "float32":
            notes.append("DoRA's magnitudes start from norms in float32 here, and in the base's precision in TRL")
        if self.config.model.device_map:
            notes.append("model.device_map is the launcher's business in TRL, and was left out")
        if self.config.train.parallel != "none":
            notes.append(
                f"this run had {self.config.train.ranks} ranks by {self.config.train.parallel}; this file is for one"
                " process, which trains on the same examples a step"
            )
        return notes

    def write(self, aside: Path, folder: Path) -> None:
        """Writes the config and the rows.

        Args:
            aside: an empty folder.
            folder: where that one will be.
        """
        (aside / DATA).mkdir()
        self.data.train.to_parquet(aside / DATA / "train.parquet")
        values = {**self._model(), **self._adapter(), **self._trainer()}
        values |= {"dataset_name": str(folder / DATA), "output_dir": str(folder / "trained")}
        head = _HEAD.format(run=self.run.path, file=folder / CONFIG)
        notes = "".join(f"# {note}\n" for note in self.notes)
        atomic.write_text(aside / CONFIG, head + notes + OmegaConf.to_yaml(OmegaConf.create(values)))

    def _model(self) -> dict[str, Any]:
        model = self.config.model
        return {
            "model_name_or_path": self.base,
            **({"model_revision": model.revision} if model.revision else {}),
            "dtype": self.dtype,
            **({"attn_implementation": model.attn_implementation} if model.attn_implementation else {}),
            "trust_remote_code": model.trust_remote_code,
        }

    def _adapter(self) -> dict[str, Any]:
        """From what PEFT was given: lowrung's names of kinds of layers are whole names there."""
        saved, lora = self.adapter, self.config.lora
        named = {
            "lora_target_modules": saved["target_modules"],
            "lora_target_parameters": saved.get("target_parameters"),
            "lora_modules_to_save": saved.get("modules_to_save"),
        }
        return {
            "use_peft": True,
            "lora_r": lora.r,
            "lora_alpha": int(lora.alpha),
            "lora_dropout": lora.dropout,
            "use_rslora": lora.use_rslora,
            "use_dora": lora.use_dora,
            **{name: _names(value) for name, value in named.items() if value},
        }

    def _trainer(self) -> dict[str, Any]:
        config = self.config
        given: Any = arguments(
            config.train,
            rows=len(self.data.train),
            max_length=config.data.max_length,
            seed=config.seed,
            checkpoints=self.run.checkpoints,
        )
        names = dict.fromkeys([*_OF_TRAINER, *config.train.sft])
        values = {name: getattr(given, name) for name in names}
        plain = {name: value.value if isinstance(value, enum.Enum) else value for name, value in values.items()}
        return {name: value for name, value in plain.items() if value is not None} | {
            "report_to": "none",
            "save_total_limit": 1,
            "router_aux_loss_coef": 0.0,  # TRL would take a mixture of experts' own, which lowrung leaves out
        }


def _names(value: str | Sequence[str]) -> str | list[str]:
    """Modules as TRL takes them: it makes a list of one name a text, which PEFT reads as a pattern of whole paths."""
    names = [value] if isinstance(value, str) else sorted(value)
    if isinstance(value, str) or len(names) > 1:
        return value if isinstance(value, str) else names
    return rf"(.*\.)?{re.escape(names[0])}"


def _dtype(model: ModelConf, device: str) -> str:
    """The precision of a run on this kind of device."""
    if model.dtype != "auto":
        return model.dtype
    here = str(pretrained.dtype_for("auto", pretrained.device())).removeprefix("torch.")
    return "float32" if device == "cpu" else here


def _problems(config: Config) -> Iterator[str]:
    """The settings that ``trl sft`` has no field for."""
    if config.lora.is_full:
        yield "lora=full has no adapter, and only adapters are exported."
        return
    yield from _adapter_problems(config.lora)
    yield from _training_problems(config.train)
    if config.model.quantization != "none":
        yield (
            f"model.quantization={config.model.quantization} has norms, head and embeddings in float32, and trl sft"
            " leaves them in the base's precision: its losses would differ."
        )
    if config.model.added_tokens:
        yield "model.added_tokens adds rows to the base, and trl sft adds none. Train without them."


def _device_problems(model: ModelConf, device: str) -> Iterator[str]:
    """A precision that was chosen by the device is known where there is such a device."""
    if model.dtype == "auto" and device != "cpu" and pretrained.device().type == "cpu":
        yield f"model.dtype=auto was chosen for {device}, and there is none here. Export where there is one."


def _adapter_problems(lora: LoraConf) -> Iterator[str]:
    if lora.init != "default":
        yield f"lora.init={lora.init} is no init that trl sft can be asked for: it has PEFT's default alone."
    if lora.alpha != int(lora.alpha):
        yield f"lora.alpha={lora.alpha:g} must be whole in trl sft."
    if lora.bias != "none":
        yield f"lora.bias={lora.bias} trains biases, and trl sft trains none."
    for name in ("rank_pattern", "alpha_pattern", "layers_to_transform", "trainable_token_indices", "lora_plus_ratio"):
        if value := getattr(lora, name):
            yield f"lora.{name}={value} has no field in trl sft."
    for name, value in lora.peft.items():
        yield f"lora.peft.{name}={value} has no field in trl sft."


def _training_problems(train: TrainConf) -> Iterator[str]:
    if train.packing:
        yield "train.packing=true fills rows in lowrung's own order, and trl sft in another: its losses would differ."
    if train.early_stopping:
        yield f"train.early_stopping={train.early_stopping} ended the run by its evaluations, and trl sft has none."
