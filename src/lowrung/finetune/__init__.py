"""Training one adapter: torch, transformers, trl, peft and datasets live here and in `lowrung.adapters`."""
