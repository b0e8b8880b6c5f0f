"""lowrung: which LoRA? Sweeps of LoRA fine-tunes, verified and recorded."""

__version__ = "0.1.0"
