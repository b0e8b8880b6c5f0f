"""A run as a config file for ``trl sft``.

The names are those of TRL 1.16's `SFTConfig`, `ModelConfig` and `ScriptArguments` (trl/scripts/sft.py), and the values
of `SFTConfig` are those that lowrung's own trainer is given.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset

from lowrung.adapters.tools import refusals
from lowrung.adapters.tools.base import Export, plain
from lowrung.config.schema import Config

_OF_TRAINER = (
    *("learning_rate", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type"),
    *("warmup_steps", "weight_decay", "max_grad_norm", "max_length", "seed", "logging_steps", "logging_nan_inf_filter"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "bf16", "report_to", "dataset_kwargs"),
)
"""The fields of `SFTConfig` that are taken over, beside those of ``train.sft``."""

_NO_FIELD = ("rank_pattern", "alpha_pattern", "layers_to_transform", "trainable_token_indices", "lora_plus_ratio")


class Trl(Export):
    """A run for TRL."""

    TOOL = "trl"
    COMMAND: ClassVar[Sequence[str]] = ("trl", "sft", "--config")
    CONFIG = "sft.yaml"

    @staticmethod
    def refusals(config: Config) -> Iterator[str]:
        """The settings that ``trl sft`` has no field for."""
        yield from refusals.init("trl sft", config.lora, ("default",))
        yield from refusals.without_a_field("trl sft", "lora", config.lora, _NO_FIELD)
        yield from refusals.of_peft("trl sft", config.lora)

    @property
    def notes(self) -> list[str]:
        """What TRL does otherwise, or what must be known of what was written."""
        return self.common_notes

    def write_rows(self, rows: Dataset, folder: Path) -> None:
        """As one file: TRL takes the tokens of a row that has them."""
        rows.to_parquet(folder / "train.parquet")

    def values(self, folder: Path) -> dict[str, Any]:
        """The fields of TRL's dataclasses."""
        return {
            **self._model(),
            **self._adapter(),
            **self._trainer(),
            "dataset_name": str(folder / self.DATA),
            "output_dir": str(folder / "trained"),
        }

    def _model(self) -> dict[str, Any]:
        model = self.config.model
        return {
            "model_name_or_path": self.base,
            **({"model_revision": self.revision} if self.revision else {}),
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
        names = dict.fromkeys([*_OF_TRAINER, *self.config.train.sft])
        values = {name: plain(getattr(self.given, name)) for name in names}
        return {name: value for name, value in values.items() if value is not None} | {
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
