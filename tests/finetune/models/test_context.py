import pytest
from transformers import BloomConfig, Gemma4Config, GPT2Config, LlamaConfig, MambaConfig, MptConfig, PreTrainedConfig

from lowrung.finetune.models import context

TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 96}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=96), 96),
        (GPT2Config(n_positions=96), 96),
        (MptConfig(max_seq_len=96), 96),
        (Gemma4Config(text_config=TEXT, vision_config=None, audio_config=None), 96),
        (PreTrainedConfig.from_dict({"n_ctx": 96, "max_seq_length": 128}), 96),
        (PreTrainedConfig.from_dict({"max_position_embeddings": -1}), None),  # XLNet
        (MambaConfig(), None),
        (BloomConfig(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_context_is_what_the_config_states_however_it_calls_it(config, limit):
    assert context.limit(config) == limit


def test_a_prompt_has_the_room_that_the_context_leaves():
    prompts = [[1] * length for length in (2, 5, 6, 9, 12)]
    assert context.rooms(prompts, 4, 9) == [4, 4, 3, 0, 0]
    assert context.rooms(prompts, 4, None) == [4] * 5


def test_prompts_with_less_room_go_alone_and_those_without_not_at_all():
    assert list(context.batches([4, 3, 4, 0, 4, 1], 4, batch_size=2)) == [([0, 2], 4), ([4], 4), ([1], 3), ([5], 1)]
