"""An adapter's tokenizer, where its answers end, the tokens that it adds, and whether it holds their rows."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError, blaming
from lowrung.finetune.data import taught
from lowrung.finetune.data.template import Format
from lowrung.finetune.lora import settings
from lowrung.finetune.models import added_tokens, ends, pretrained
from lowrung.finetune.models.ends import Ends


def tokenizer_of(base: ModelConf, adapter: Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved beside an adapter; the base's where there is none, and for the base alone."""
    if adapter is not None and _has_tokenizer(adapter):
        with blaming(f"The tokenizer in {adapter}", "Save it again (tokenizer.save_pretrained)."):
            return pretrained.load_tokenizer(adapter, trust_remote_code=base.trust_remote_code)
    with blaming(f"The tokenizer of the base, {base.path},"):
        return pretrained.tokenizer_of(base)


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").is_file()


def ends_of(base: ModelConf, adapter: Path | None = None, format: Format | None = None) -> Ends:
    """Where the answers of an adapter end, or those of a base or another whole model, where there is none.

    lowrung has written it beside what it trained. Otherwise what ends them is what the template writes after an answer,
    what the tokenizer names, and what the base's generation config names.

    Args:
        base: the base, or a whole model.
        adapter: the adapter's folder.
        format: how prompts are formatted; None is by the chat template where there is one.
    """
    folder = pretrained.folder_of(base)
    if stored := Ends.read(adapter or folder):
        return stored
    tokenizer = tokenizer_of(base, adapter)
    template = (format or Format()).template(tokenizer)
    return taught.taught(tokenizer, template, listed=ends.listed(folder)).ends


def added(folder: Path, base: ModelConf) -> tuple[str, ...]:
    """The tokens that the tokenizer beside an adapter adds to the base's, in the order of their ids.

    There are none where no tokenizer was saved beside the adapter.

    Raises:
        UsageError: when the tokenizer cannot be loaded.
    """
    if not _has_tokenizer(folder):
        return ()
    known = pretrained.tokenizer_of(base).get_vocab()
    try:
        ids = pretrained.load_tokenizer(folder, trust_remote_code=base.trust_remote_code).get_added_vocab()
    except Exception as error:  # transformers raises many kinds
        raise UsageError(
            f"The tokenizer in {folder} cannot be loaded ({type(error).__name__}: {error}). Save it again"
            " (tokenizer.save_pretrained), or delete its files if it is the base's."
        ) from error
    new = (token for token, id in ids.items() if id >= len(known) and token not in known)
    return tuple(sorted(new, key=lambda token: ids[token]))


def problems(folder: Path, config: LoraConfig, held: Mapping[str, int], base: ModelConf) -> Iterator[str]:
    """Why the rows that an adapter trains are not rows of its base, in words; no weights are loaded.

    Args:
        folder: the adapter's.
        config: its settings.
        held: how many rows each tensor of its file has, by the names of the base's parameters.
        base: the base, which can be loaded, with the tokens that were added to it.
    """
    skeleton = pretrained.skeleton(base)
    rows = added_tokens.row_count(skeleton)
    trained = trained_rows(config, skeleton)
    if beyond := sorted({row for indices in trained.values() for row in indices if row >= rows}):
        yield (
            f"it trains the embeddings of tokens {', '.join(map(str, beyond))}, but {base.path} has 0 to {rows - 1}."
            " If tokens were added to the base, name them in model.added_tokens; the tokenizer beside the adapter has"
            " them."
        )
    if grown := [name for name in settings.matrices(skeleton) if held.get(f"{name}.weight", 0) > rows]:
        yield (
            f"it has {held[f'{grown[0]}.weight']} rows of {' and '.join(grown)}, but {_shown(base)} has {rows}. If"
            " tokens were added to the base, save the tokenizer that has them beside the adapter"
            " (tokenizer.save_pretrained). There must be one row for each token, without padding (pad_to_multiple_of)."
            " If it was trained on another base, name that: --base PATH."
        )
        return
    plain = dataclasses.replace(base, added_tokens=[])
    tokens = added(folder, plain)
    if not tokens:
        return
    new = set(pretrained.added_rows(dataclasses.replace(plain, added_tokens=list(tokens))))
    new -= set(range(added_tokens.row_count(pretrained.skeleton(plain))))
    for name in settings.matrices(skeleton)[: 1 if settings.is_tied(skeleton) else 2]:
        is_whole = f"{name}.weight" in held or _ends(name, config.modules_to_save or ())
        if not is_whole and (lost := sorted(new - set(trained.get(name, ())))):
            yield (
                f"it adds {', '.join(tokens)} to its base, so it must hold the rows of {name} that are new, but lacks"
                f" {', '.join(map(str, lost))}. Train and save them (`trainable_token_indices`)."
            )


def _shown(base: ModelConf) -> str:
    return f"{base.path} with {', '.join(base.added_tokens)}" if base.added_tokens else base.path


def trained_rows(config: LoraConfig, model: PreTrainedModel) -> dict[str, Sequence[int]]:
    """The single rows that an adapter trains, by the full name of their matrix."""
    named = config.trainable_token_indices or {}
    embedding = settings.matrices(model)[0]
    wanted: Mapping[str, Sequence[int]] = named if isinstance(named, Mapping) else {embedding: named}
    return {full: rows for name, rows in wanted.items() for full in settings.matrices(model) if _ends(full, [name])}


def _ends(full: str, names: Collection[str]) -> bool:
    return any(full == name or full.endswith(f".{name}") for name in names)
