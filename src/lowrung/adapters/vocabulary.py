"""The tokens that an adapter adds to its base, and whether it holds their rows of the embedding and the head."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from peft import LoraConfig
from transformers import PreTrainedModel

from lowrung.errors import UsageError
from lowrung.finetune.lora import settings
from lowrung.finetune.models import added_tokens, pretrained
from lowrung.finetune.models.pretrained import Base


def added(folder: Path, base: Base) -> tuple[str, ...]:
    """The tokens that the tokenizer beside an adapter has after all that the base's has, in the order of their numbers.

    None where the adapter has no tokenizer of its own.

    Raises:
        UsageError: when it has one that cannot be loaded.
    """
    if not (folder / "tokenizer_config.json").is_file():
        return ()
    known = pretrained.tokenizer_of(base).get_vocab()
    try:
        numbers = pretrained.load_tokenizer(folder, trust_remote_code=base.trust_remote_code).get_added_vocab()
    except Exception as error:  # whatever transformers raises where it finds nothing that it can load
        raise UsageError(
            f"The tokenizer in {folder} cannot be loaded ({type(error).__name__}: {error}). Save it again"
            " (tokenizer.save_pretrained), or take its files away where it is the base's."
        ) from error
    after = (token for token, number in numbers.items() if number >= len(known) and token not in known)
    return tuple(sorted(after, key=lambda token: numbers[token]))


def problems(folder: Path, config: LoraConfig, held: Mapping[str, int], base: Base) -> Iterator[str]:
    """Why the rows that an adapter trains do not go with its base's, in words; no weights are loaded.

    Args:
        folder: the adapter's.
        config: its settings.
        held: how many rows each tensor has that it has saved, by the names of the base's parameters.
        base: the base, which can be used, with the tokens that were added to it.
    """
    skeleton = pretrained.skeleton(base)
    rows = added_tokens.row_count(skeleton)
    trained = trained_rows(config, skeleton)
    if beyond := sorted({row for numbers in trained.values() for row in numbers if row >= rows}):
        yield (
            f"it trains the embeddings of tokens {', '.join(map(str, beyond))}, but {base.path} has 0 to {rows - 1}."
            " Name what was added to the base (added_tokens); the tokenizer that was saved beside the adapter has it."
        )
    if grown := [name for name in settings.matrices(skeleton) if held.get(f"{name}.weight", 0) > rows]:
        yield (
            f"it has {held[f'{grown[0]}.weight']} rows of {' and '.join(grown)}, but {_shown(base)} has {rows}. If"
            " tokens were added to the base, save the tokenizer that has them beside the adapter"
            " (tokenizer.save_pretrained); there can be no more rows than tokens (pad_to_multiple_of). If it was"
            " trained on another base, name that: --base PATH."
        )
        return
    plain = dataclasses.replace(base, added_tokens=())
    tokens = added(folder, plain)
    new = set(pretrained.added_rows(dataclasses.replace(plain, added_tokens=tokens)))
    new -= set(range(added_tokens.row_count(pretrained.skeleton(plain))))
    for name in settings.matrices(skeleton)[: 1 if settings.is_tied(skeleton) else 2]:
        is_whole = f"{name}.weight" in held or _ends(name, config.modules_to_save or ())
        if not is_whole and (lost := sorted(new - set(trained.get(name, ())))):
            yield (
                f"it adds {', '.join(tokens)} to its base, so it must hold the rows of {name} that are new, but lacks"
                f" {', '.join(map(str, lost))}. Train and save them (`trainable_token_indices`)."
            )


def _shown(base: Base) -> str:
    return f"{base.path} with {', '.join(base.added_tokens)}" if base.added_tokens else base.path


def trained_rows(config: LoraConfig, model: PreTrainedModel) -> dict[str, Sequence[int]]:
    """The rows that are trained by themselves, by the whole name of their matrix."""
    named = config.trainable_token_indices or {}
    embedding = settings.matrices(model)[0]
    wanted: Mapping[str, Sequence[int]] = named if isinstance(named, Mapping) else {embedding: named}
    return {whole: rows for name, rows in wanted.items() for whole in settings.matrices(model) if _ends(whole, [name])}


def _ends(whole: str, names: Collection[str]) -> bool:
    return any(whole == name or whole.endswith(f".{name}") for name in names)
