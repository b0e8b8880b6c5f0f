"""How many tokens a model takes, a prompt and its answer together, and what room a prompt leaves there."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedConfig

NAMES = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "model_max_length",
)
"""What configs call it: the first for nearly all, as transformers maps most of the others. A model whose config says it
in other words, or not quite (RoBERTa takes two less), is found out by `lowrung.finetune.forward`."""


def limit(config: PreTrainedConfig) -> int | None:
    """The context of a model, in tokens; None where its config states none (Mamba, ALiBi).

    A model with rotary positions would go on beyond it and say worse and worse things: one rule holds for all.
    """
    text = config.get_text_config()
    stated = [getattr(text, name, None) for name in NAMES]
    return min((value for value in stated if isinstance(value, int) and value > 0), default=None)


def rooms(prompts: Sequence[Sequence[int]], new_tokens: int, context: int | None) -> list[int]:
    """The tokens that may follow each prompt: ``new_tokens``, or as many as the context has left, which may be none."""
    if context is None:
        return [new_tokens] * len(prompts)
    return [max(0, min(new_tokens, context - len(prompt))) for prompt in prompts]


def batches(rooms: Sequence[int], new_tokens: int, batch_size: int) -> Iterator[tuple[list[int], int]]:
    """The numbers of the prompts that are continued together, and by how many tokens.

    Those that leave less room than ``new_tokens`` go one at a time: a batch ends when its longest prompt does. Those
    that leave none are in no batch.
    """
    whole = [number for number, room in enumerate(rooms) if room >= new_tokens]
    for start in range(0, len(whole), batch_size):
        yield whole[start : start + batch_size], new_tokens
    for number, room in enumerate(rooms):
        if 0 < room < new_tokens:
            yield [number], room
