"""A run as a config file for ``axolotl train``.

The names are those of axolotl 0.19 (axolotl/utils/schemas/), and what each does was read in its loaders and builders.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset

from lowrung.adapters.tools import refusals
from lowrung.adapters.tools.base import Export, plain, tokens_with_masks
from lowrung.config.schema import Config, LoraConf, TrainConf, pattern
from lowrung.finetune.models import pretrained

_INITS = {"default": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}
_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
_PRECISIONS = {
    "float32": {"bf16": False, "fp16": False},
    "bfloat16": {"bf16": True, "fp16": False},
    "float16": {"bf16": False, "fp16": False, "float16": True},
}
"""``bf16`` is also autocast there, and ``float16`` is not."""


class Axolotl(Export):
    """A run for axolotl."""

    TOOL = "axolotl"
    COMMAND: ClassVar[Sequence[str]] = ("axolotl", "train")
    CONFIG = "axolotl.yaml"

    @staticmethod
    def refusals(config: Config) -> Iterator[str]:
        """The settings that axolotl has no field for, or does something else with."""
        yield from refusals.init("axolotl", config.lora, tuple(_INITS))
        yield from refusals.of_peft("axolotl", config.lora, ("exclude_modules", "layers_pattern"))
        yield from _pattern_refusals(config.lora)
        yield from _training_refusals(config.train, config.lora, config.seed)

    def base_refusals(self) -> Iterator[str]:
        """Why axolotl would load this base, or adapt it, in another way."""
        yield from refusals.of_base("axolotl", self.config.model, pretrained.config_of(self.config.model))
        if self.warmup_steps == 1:
            yield (
                "train.warmup_ratio and train.sft.warmup_steps must make no warm-up of one step, since axolotl makes it"
                " two. Train with train.warmup_ratio=0, or a longer warm-up."
            )

    @property
    def notes(self) -> list[str]:
        """What axolotl does otherwise, or what must be known of what was written."""
        notes = [
            *self.common_notes,
            "axolotl draws A without a seed, so that its losses are those of a run with another seed",
            "axolotl logs a loss that is not a number as 0",
            "axolotl sends its makers what it is used for, unless AXOLOTL_DO_NOT_TRACK=1 is set",
        ]
        if self.dtype == "bfloat16":
            notes.append("axolotl multiplies with A and B in bfloat16 (autocast), and lowrung in float32")
        return notes

    def write_rows(self, rows: Dataset, folder: Path) -> None:
        """As one file: axolotl takes the tokens of rows that have the three columns."""
        tokens_with_masks(rows).to_parquet(folder / "train.parquet")

    def values(self, folder: Path) -> dict[str, Any]:
        """The fields of axolotl's schema."""
        return {
            **self._model(),
            **self._adapter(),
            **self._rows(folder),
            **self._trainer(),
            "output_dir": str(folder / "trained"),
        }

    def _model(self) -> dict[str, Any]:
        model = self.config.model
        return {
            "base_model": self.base,
            **({"revision_of_model": self.revision} if self.revision else {}),
            "trust_remote_code": model.trust_remote_code,
            **({"attn_implementation": model.attn_implementation} if model.attn_implementation else {}),
            **_PRECISIONS[self.dtype],
            "tf32": False,
            "load_in_8bit": False,
            "load_in_4bit": False,
        }

    def _adapter(self) -> dict[str, Any]:
        saved, lora = self.adapter, self.config.lora
        named = {
            "lora_target_parameters": saved.get("target_parameters"),
            "lora_modules_to_save": saved.get("modules_to_save"),
            "lora_rank_pattern": saved.get("rank_pattern"),
            "lora_alpha_pattern": {key: int(value) for key, value in saved.get("alpha_pattern", {}).items()},
            "peft_trainable_token_indices": saved.get("trainable_token_indices"),
            "loraplus_lr_ratio": lora.lora_plus_ratio,
        }
        return {
            "adapter": "lora",
            "lora_r": lora.r,
            "lora_alpha": int(lora.alpha),
            "lora_dropout": lora.dropout,
            "lora_target_modules": self.targets,
            "lora_target_linear": False,
            "peft_use_rslora": lora.use_rslora,
            "peft_use_dora": lora.use_dora,
            "peft_init_lora_weights": _INITS[lora.init],
            **{name: value for name, value in named.items() if value},
            **dict.fromkeys(_KERNELS, False),  # they are switched on where nothing is said
        }

    def _rows(self, folder: Path) -> dict[str, Any]:
        """Rows as they are, in their order. axolotl's copy lies beside them: it knows a copy by its settings alone."""
        return {
            "datasets": [{"path": str(folder / self.DATA / "train.parquet"), "ds_type": "parquet", "split": "train"}],
            "dataset_prepared_path": str(folder / "prepared"),
            "shuffle_merged_datasets": False,
            "curriculum_sampling": self.given.train_sampling_strategy == "sequential",
            "val_set_size": 0.0,
            "sequence_len": self.config.data.max_length,
            "excess_length_strategy": "raise",
            "sample_packing": False,
            **self._padding(),
        }

    def _padding(self) -> dict[str, Any]:
        multiple = self.given.pad_to_multiple_of
        return {"pad_to_multiple_of": multiple} if multiple else {"pad_to_sequence_len": False}

    def _trainer(self) -> dict[str, Any]:
        given = self.given
        values = {
            "micro_batch_size": given.per_device_train_batch_size,
            "gradient_accumulation_steps": given.gradient_accumulation_steps,
            "max_steps": given.max_steps,
            "learning_rate": given.learning_rate,
            "lr_scheduler": plain(given.lr_scheduler_type),
            "lr_scheduler_kwargs": given.lr_scheduler_kwargs,
            "warmup_steps": self.warmup_steps,
            "weight_decay": given.weight_decay,
            "max_grad_norm": given.max_grad_norm,
            "optimizer": self.optimizer,
            "optim_args": given.optim_args,
            "adam_beta1": given.adam_beta1,
            "adam_beta2": given.adam_beta2,
            "adam_epsilon": given.adam_epsilon,
            "neftune_noise_alpha": given.neftune_noise_alpha,
            "torch_empty_cache_steps": given.torch_empty_cache_steps,
            "gradient_checkpointing": given.gradient_checkpointing,
            "gradient_checkpointing_kwargs": given.gradient_checkpointing_kwargs,
            "seed": given.seed,
            "dataloader_num_workers": 0,
            "logging_steps": 1,
            "save_strategy": "no",
        }
        return {name: value for name, value in values.items() if value is not None}


def _pattern_refusals(lora: LoraConf) -> Iterator[str]:
    for key, alpha in pattern(lora.alpha_pattern).items():
        if alpha != int(alpha):
            yield f"lora.alpha_pattern={{{key}: {alpha}}} must be whole in axolotl. Train with {max(round(alpha), 1)}."


def _training_refusals(train: TrainConf, lora: LoraConf, seed: int) -> Iterator[str]:
    if train.gradient_accumulation_steps > 1:
        yield (
            f"train.gradient_accumulation_steps={train.gradient_accumulation_steps} weighs each token alike, and"
            " axolotl each forward pass: its losses would differ. Train with train.gradient_accumulation_steps=1 and a"
            " larger train.batch_size."
        )
    if lora.lora_plus_ratio is not None and train.weight_decay:
        yield (
            f"train.weight_decay={train.weight_decay:g} is dropped by axolotl's LoRA+, but lora.lora_plus_ratio is"
            f" {lora.lora_plus_ratio:g}. Train with train.weight_decay=0."
        )
    if train.sft.get("data_seed", seed) != seed:
        yield (
            f"train.sft.data_seed={train.sft['data_seed']} has no field in axolotl, which orders rows by the seed,"
            f" {seed}. Train without it."
        )
