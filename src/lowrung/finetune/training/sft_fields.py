"""``train.sft``: which fields of TRL's `SFTConfig` reach what is trained, and why the others are refused."""

import dataclasses

from trl import SFTConfig

PASSED = frozenset(
    {
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "data_seed",
        "lr_scheduler_kwargs",
        "neftune_noise_alpha",
        "optim",
        "optim_args",
        "pad_to_multiple_of",
        "torch_empty_cache_steps",
        "train_sampling_strategy",
        "warmup_steps",
    }
)
"""The fields that lowrung's trainer heeds; a test shows what each does."""

CHOICES = {
    "optim": (
        *("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"),
        *("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit"),
        *("lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit"),
        *("ademamix", "ademamix_8bit", "paged_ademamix_8bit", "paged_ademamix_32bit"),
        *("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
    ),
    "train_sampling_strategy": ("random", "sequential"),
}
"""The values of a field that its type does not tell, or that the trainer does not heed all.

Optimisers that are schedule-free hold other weights while they train than those to be scored; LOMO, GaLore and APOLLO
update weights by hooks of their own. Groups of like length come in another order after a resume.
"""

_SET_BY = {
    "train.learning_rate": "learning_rate",
    "train.max_steps": "max_steps",
    "train.epochs": "num_train_epochs",
    "train.batch_size": "per_device_train_batch_size",
    "train.eval_batch_size": "per_device_eval_batch_size",
    "train.gradient_accumulation_steps": "gradient_accumulation_steps",
    "train.eval_steps": "eval_strategy eval_steps eval_delay do_eval",
    "train.save_steps": "save_strategy save_steps",
    "train.save_total_limit": "save_total_limit",
    "train.early_stopping": "load_best_model_at_end metric_for_best_model greater_is_better",
    "train.lr_scheduler_type": "lr_scheduler_type",
    "train.weight_decay": "weight_decay",
    "train.max_grad_norm": "max_grad_norm",
    "train.packing": "packing packing_strategy eval_packing padding_free",
    "train.gradient_checkpointing": (
        "gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs"
    ),
    "train.parallel": (
        "accelerator_config average_tokens_across_devices ddp_find_unused_parameters ddp_bucket_cap_mb"
        " ddp_broadcast_buffers ddp_static_graph fsdp fsdp_config"
    ),
    "seed": "seed",
    "store": "output_dir",
    "track": "report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id",
    "model.dtype": "bf16 fp16",
    "model.trust_remote_code": "trust_remote_code",
    "model": "model_init_kwargs",
    "data.max_length": "max_length truncation_mode",
    "data.text_column": "dataset_text_field",
    "data.format": "chat_template_path",
    "hydra.launcher": "use_cpu",
}
"""Settings of lowrung, and the fields that each decides."""

_REASONS = {
    "lowrung's own loss, over labelled tokens alone, does not read it": (
        "label_smoothing_factor loss_type router_aux_loss_coef torch_compile torch_compile_backend torch_compile_mode"
        " use_liger_kernel liger_kernel_config use_cache label_names"
    ),
    "the data decides what is learnt: completions, and every turn of the assistant": (
        "completion_only_loss assistant_only_loss"
    ),
    "lowrung turns the data into tokens before the first run": (
        "dataset_kwargs dataset_num_proc shuffle_dataset eos_token pad_token remove_unused_columns length_column_name"
    ),
    "lowrung's own evaluation, by sums over tokens, does not read it": (
        "bf16_full_eval fp16_full_eval prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object"
        " eval_accumulation_steps include_for_metrics batch_eval_metrics"
    ),
    "lowrung reports every step": (
        "logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level"
        " log_level_replica disable_tqdm include_num_input_tokens_seen skip_memory_metrics"
    ),
    "a run goes on from its own checkpoints, to the same result": (
        "resume_from_checkpoint save_only_model save_on_each_node enable_jit_checkpoint ignore_data_skip"
        " restore_callback_states_from_checkpoint"
    ),
    "nothing goes to a hub from a run": (
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision"
    ),
    "lowrung starts a run's ranks itself, for DDP or FSDP": (
        "parallelism_config deepspeed local_rank ddp_backend ddp_timeout"
    ),
    "the rows are mapped into memory, and the run's own process reads them": (
        "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor"
        " dataloader_multiprocessing_context dataloader_in_order"
    ),
    "lowrung counts the last batch of an epoch, whether it is full or not": "dataloader_drop_last",
    "a run that is out of memory is tried once more, with half the batch": "auto_find_batch_size",
    "it would hold for the gate too, which compares in float32": "tf32",
    "it would hold for the gate too, which was not tried with it": "full_determinism",
    "lowrung was not tried with it": "activation_offloading debug",
    "only GaLore and APOLLO read it, and lowrung trains with neither": "optim_target_modules",
    "lowrung decides when it trains and when it evaluates": "do_train do_predict",
}
"""Why fields are refused that no setting of lowrung decides, and the fields."""


def refused() -> dict[str, str]:
    """The fields that are not to be given, each with the reason, as the end of a sentence.

    A field that a new release of TRL brings is refused until somebody has seen what the trainer does with it.
    """
    known = {name: f"{setting} sets it" for setting, names in _SET_BY.items() for name in names.split()}
    known |= {name: reason for reason, names in _REASONS.items() for name in names.split()}
    fields = {field.name for field in dataclasses.fields(SFTConfig)}
    new = dict.fromkeys(fields - known.keys() - PASSED, "lowrung does not know yet whether its trainer heeds it")
    return known | new
