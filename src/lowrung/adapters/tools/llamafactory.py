"""A run as a config file for ``llamafactory-cli train``.

The names are those of LLaMA-Factory 0.9.5 (llamafactory/hparams/) and of transformers' `TrainingArguments`, which it
takes too. It loads a base in the precision that it is stored in, and holds all trained weights in float32.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict

from lowrung.adapters.tools import refusals
from lowrung.adapters.tools.base import Export, plain, tokens_with_masks
from lowrung.config.schema import Config, LoraConf
from lowrung.finetune.models import pretrained

_OF_TRAINER = (
    *("learning_rate", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "optim_args"),
    *("neftune_noise_alpha", "torch_empty_cache_steps", "seed", "data_seed", "logging_steps", "logging_nan_inf_filter"),
)
"""The fields of `TrainingArguments` that are taken over."""

_ATTENTIONS = {None: "auto", "eager": "disabled", "sdpa": "sdpa", "flash_attention_2": "fa2"}
_PADDED_TO = 8


class LlamaFactory(Export):
    """A run for LLaMA-Factory."""

    TOOL = "llamafactory"
    COMMAND: ClassVar[Sequence[str]] = ("llamafactory-cli", "train")
    CONFIG = "train.yaml"

    @staticmethod
    def refusals(config: Config) -> Iterator[str]:
        """The settings that LLaMA-Factory has no field for."""
        lora, model, sft = config.lora, config.model, config.train.sft
        if not lora.init.startswith("pissa"):
            yield from refusals.init("llamafactory", lora, ("default", "pissa", "pissa_niter_N"))
        elif lora.use_dora:
            yield (
                f"lora.use_dora=true with lora.init={lora.init} loses DoRA's magnitudes where llamafactory converts the"
                " adapter for the original base. Train with lora.init=default."
            )
        names = ("rank_pattern", "alpha_pattern", "trainable_token_indices", "experts")
        yield from refusals.without_a_field("llamafactory", "lora", lora, names)
        yield from refusals.of_peft("llamafactory", lora, ("exclude_modules", "layers_pattern"))
        if model.attn_implementation not in _ATTENTIONS:
            yield (
                f"model.attn_implementation={model.attn_implementation} is no attention of llamafactory, which has"
                f" {', '.join(name for name in _ATTENTIONS if name)}. Train with one of these."
            )
        padded = sft.get("pad_to_multiple_of")
        if sft.get("neftune_noise_alpha") and padded != _PADDED_TO:
            yield (
                f"train.sft.neftune_noise_alpha={sft['neftune_noise_alpha']} is the smaller the longer a padded row is,"
                f" and llamafactory pads to a multiple of {_PADDED_TO}, but train.sft.pad_to_multiple_of is {padded}."
                f" Train with {_PADDED_TO}."
            )

    def base_refusals(self) -> Iterator[str]:
        """Why LLaMA-Factory would not load this base, or not adapt it, as lowrung does."""
        model, base = self.config.model, pretrained.config_of(self.config.model)
        yield from refusals.of_base("llamafactory", model, base)
        stored = str(getattr(base, "dtype", None)).removeprefix("torch.")
        if stored != self.dtype:
            yield (
                f"model.dtype={self.dtype} must be what the base is stored in, since llamafactory loads it so, but its"
                f" config.json says {stored}. Train with model.dtype={stored}, or on a base saved in {self.dtype}."
            )
        if self.dtype != "float32" and (whole := self.config.lora.modules_to_save):
            yield (
                f"lora.modules_to_save={whole} is trained in {self.dtype} here, and in float32 in llamafactory. Train"
                " with model.dtype=float32, or without it."
            )

    @property
    def notes(self) -> list[str]:
        """What LLaMA-Factory does otherwise, or what must be known of what was written."""
        notes = [*self.common_notes, "dataset names nothing: rows come from tokenized_path, and no template is used"]
        is_said = "pad_to_multiple_of" in self.config.train.sft or self.config.lora.dropout
        if is_said and self.given.pad_to_multiple_of != _PADDED_TO:
            effect = f"dropout draws other entries than here (train.sft.pad_to_multiple_of={_PADDED_TO} draws the same)"
            what = f"so that {effect}" if self.config.lora.dropout else "which changes no loss"
            notes.append(f"llamafactory pads rows to a multiple of {_PADDED_TO} tokens, {what}")
        return notes

    def write_rows(self, rows: Dataset, folder: Path) -> None:
        """As `datasets` saves them, with a split ``train``."""
        DatasetDict({"train": tokens_with_masks(rows)}).save_to_disk(folder)

    def values(self, folder: Path) -> dict[str, Any]:
        """The fields of LLaMA-Factory's dataclasses."""
        return {
            "stage": "sft",
            "do_train": True,
            **self._model(),
            "finetuning_type": "lora",
            **self._adapter(),
            "dataset": "rows_of_lowrung",  # one must be named; nothing is read under this name
            "tokenized_path": str(folder / self.DATA),
            "template": "empty",
            "cutoff_len": self.config.data.max_length,
            "packing": False,
            "val_size": 0.0,
            **self._trainer(),
            "output_dir": str(folder / "trained"),
        }

    def _model(self) -> dict[str, Any]:
        model = self.config.model
        return {
            "model_name_or_path": self.base,
            **({"model_revision": self.revision} if self.revision else {}),
            "trust_remote_code": model.trust_remote_code,
            "flash_attn": _ATTENTIONS[model.attn_implementation],
            "disable_gradient_checkpointing": not self.config.train.gradient_checkpointing,
            "use_reentrant_gc": False,
        }

    def _adapter(self) -> dict[str, Any]:
        lora = self.config.lora
        whole = self.adapter.get("modules_to_save")
        return {
            "lora_rank": lora.r,
            "lora_alpha": int(lora.alpha),
            "lora_dropout": lora.dropout,
            "lora_target": ",".join(self.targets),
            **({"additional_target": ",".join(whole)} if whole else {}),
            "use_rslora": lora.use_rslora,
            "use_dora": lora.use_dora,
            **_init(lora),
            **({"loraplus_lr_ratio": lora.lora_plus_ratio} if lora.lora_plus_ratio is not None else {}),
        }

    def _trainer(self) -> dict[str, Any]:
        values = {name: plain(getattr(self.given, name)) for name in _OF_TRAINER}
        return {name: value for name, value in values.items() if value is not None} | {
            **self._stable_part(),
            "optim": self.optimizer,
            "warmup_steps": self.warmup_steps,
            "disable_shuffling": self.given.train_sampling_strategy == "sequential",
            "bf16": False,
            "fp16": False,
            "tf32": False,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
        }

    def _stable_part(self) -> dict[str, Any]:
        """What is left for it where it is not given: LLaMA-Factory would take a third of the steps."""
        given: Any = self.given
        if given.lr_scheduler_type != "warmup_stable_decay":
            return {}
        settings = given.lr_scheduler_kwargs
        rest = given.max_steps - self.warmup_steps - settings["num_decay_steps"]
        return {"lr_scheduler_kwargs": {"num_stable_steps": rest, **settings}}


def _init(lora: LoraConf) -> dict[str, Any]:
    """PiSSA's iterations, -1 for the whole decomposition; the adapter is converted for the original base."""
    if not lora.init.startswith("pissa"):
        return {"pissa_init": False}
    iterations = -1 if lora.init == "pissa" else int(lora.init.removeprefix("pissa_niter_"))
    return {"pissa_init": True, "pissa_iter": iterations, "pissa_convert": True}
