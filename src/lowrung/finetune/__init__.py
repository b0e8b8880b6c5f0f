"""Training one adapter: torch, transformers, trl, peft and datasets live here and in `lowrung.adapters`."""

import os

# Before huggingface_hub's import, which reads it: TRL's trainer would tell the hub of each run. Who sets 0 tells it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
