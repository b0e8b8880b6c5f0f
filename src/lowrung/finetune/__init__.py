"""Training one adapter: torch, transformers, trl, peft and datasets live here and in `lowrung.adapters`."""

import warnings

# TRL and PEFT call transformers by names that it means to drop; nothing that a user could mend.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
