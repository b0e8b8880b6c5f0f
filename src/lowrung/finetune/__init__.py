"""Training one adapter: torch, transformers, trl, peft and datasets live here and in `lowrung.adapters`."""

import logging
import warnings

# TRL and PEFT call transformers by names that it means to drop; nothing that a user could mend.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
# It speaks of PEFT's own conversion; ours handles these (see `lowrung.finetune.lora.adapter.for_original_base`).
warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with rank_pattern/alpha_pattern")
# A head that is trained apart from its embedding is what lora.modules_to_save asked for; tests hold that it is saved,
# reloaded and merged as it was trained.
warnings.filterwarnings(
    "ignore", message="Model has `tie_word_embeddings=True` and a tied layer is part of the adapter"
)
warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied after merging")
# PEFT compares them with modules alone; `lowrung.finetune.lora.fit` has compared them with adapted parameters too.
warnings.filterwarnings("ignore", message=r"The following (rank|alpha)_pattern keys did not match")
# It takes the biases of `lora.peft.lora_bias` for matrices that were not gathered from several processes.
warnings.filterwarnings("ignore", message=r"Adapter '\w+': \d+ LoRA tensor\(s\) have invalid shape")
# Printed at every start of every process: a faster kernel is not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
