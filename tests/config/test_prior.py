import pytest

from lowrung.config import prior


@pytest.mark.parametrize(
    ("model_type", "hidden_size", "rate"),
    [
        ("llama", 2000, 5e-4),
        ("llama", 4096, 5e-4 * (2000 / 4096) ** 0.781),  # Llama 3.1 8B
        ("llama", 576, 1.32e-3),  # SmolLM2-135M
        ("qwen3", 2560, 5e-4 * (2000 / 2560) ** 0.0775),  # Qwen3 4B
        ("qwen2_moe", 2000, 5e-4),
        ("gpt2", 768, 5e-4 * (2000 / 768) ** 0.781),
    ],
)
def test_the_rate_falls_as_models_get_wider(model_type, hidden_size, rate):
    assert prior.learning_rate(model_type, hidden_size) == pytest.approx(rate, rel=5e-3)
