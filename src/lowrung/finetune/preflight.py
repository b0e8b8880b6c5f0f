"""A look at model and data before the first run: it finds what no look at the config can."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lowrung.errors import UsageError
from lowrung.finetune import adapter, data, model


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What was found.

    Attributes:
        problems: what stands in the way, for the user; when there are any, the rest is not filled in.
        model_folder: where the base model lies.
        model_fingerprint: a hash of its content.
        data_fingerprint: a hash of all rows.
        splits: what the examples were, for the record.
    """

    problems: tuple[str, ...] = ()
    model_folder: Path = Path()
    model_fingerprint: str = ""
    data_fingerprint: str = ""
    splits: tuple[data.Split, ...] = ()


def look(
    *,
    model_path: str,
    target_modules: str | Sequence[str],
    data_name: str,
    train_size: int,
    eval_size: int,
    data_seed: int,
    max_length: int,
) -> Preflight:
    """Finds model and data, checks them against the config, and takes their fingerprints."""
    problems: list[str] = []
    folder = Path()
    try:
        folder = model.locate(model_path)
        skeleton = model.skeleton(folder)
        problems += _target_problems(target_modules, adapter.targetable(skeleton))
        if model.load_tokenizer(folder).chat_template is None:
            problems.append(
                f"model.path must have a tokenizer with a chat template, since {data_name} is a dialogue, but {folder}"
                " has none. Take an instruct model, or put a chat_template.jinja beside its tokenizer."
            )
        context = getattr(skeleton.config, "max_position_embeddings", max_length)
        if max_length > context:
            problems.append(f"data.max_length must be at most the model's context of {context}, but is {max_length}.")
    except UsageError as error:
        problems += error.problems
    try:
        corpus = data.load(name=data_name, train_size=train_size, eval_size=eval_size, seed=data_seed)
    except UsageError as error:
        problems += error.problems
    if problems:
        return Preflight(tuple(problems))
    return Preflight((), folder, model.fingerprint(folder), corpus.fingerprint, corpus.splits)


def _target_problems(wanted: str | Sequence[str], available: Sequence[str]) -> list[str]:
    if isinstance(wanted, str):
        return []
    # PEFT takes a name for itself and for the end of a longer one: `self_attn.q_proj` is a q_proj.
    unknown = [name for name in wanted if name.rsplit(".", 1)[-1] not in available]
    if not unknown:
        return []
    return [
        f"lora.target_modules must name linear modules of the model, but it has no {', '.join(unknown)}."
        f" It has {', '.join(available)}."
    ]
