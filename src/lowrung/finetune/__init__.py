"""Training one adapter: torch, transformers, trl, peft and datasets live here and in `lowrung.adapters`."""

import logging
import warnings

# TRL and PEFT call transformers by names that it means to drop; nothing that a user could mend.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
# It speaks of PEFT's own conversion; ours handles these (see `lowrung.finetune.adapter.for_original_base`).
warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with rank_pattern/alpha_pattern")
# It says that a faster kernel is not installed, on every start of every process.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
