"""The learning rate that a model is likely to need: a start for a search, and the default of a single run."""

HIDDEN_SIZE = 2000
RATE = 5e-4
"""LoRA's rate at that hidden size, with ``lora.alpha=32``."""

POWERS = {"qwen": 0.0775}
POWER = 0.781
"""How fast the rate falls as models get wider: Qwen's, by what a model's type begins with; and Llama's, for others."""

FULL = 0.1
"""Full fine-tuning's rate divided by LoRA's."""


def learning_rate(model_type: str, hidden_size: int) -> float:
    """AdamW's peak rate for LoRA, of three digits: 5e-4 · (2000 / hidden size)^p.

    Formula and powers are `get_lr` of the tinker-cookbook (https://github.com/thinking-machines-lab/tinker-cookbook),
    fitted to models of these families; full fine-tuning takes a tenth ("LoRA Without Regret", Thinking
    Machines 2025). With ``alpha`` fixed, the best rate hardly depends on the rank (the same; arXiv:2602.06204).
    docs/findings.md compares it with what was measured on SmolLM2-135M.

    Args:
        model_type: the architecture's name in transformers, such as ``llama`` or ``qwen3_moe``.
        hidden_size: the width of the residual stream.
    """
    power = next((power for name, power in POWERS.items() if model_type.startswith(name)), POWER)
    return float(f"{RATE * (HIDDEN_SIZE / hidden_size) ** power:.3g}")
