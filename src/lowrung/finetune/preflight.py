"""The preflight: model and data are loaded and checked before the first run, beyond what the config alone shows."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lowrung.config import machine, prior, schema, source
from lowrung.config.schema import SCHEDULES, DataConf, LoraConf, ModelConf, TrainConf
from lowrung.errors import UsageError
from lowrung.finetune import forward, sizes, speed
from lowrung.finetune.data import corpus, prepared, taught
from lowrung.finetune.data.corpus import Corpus
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.data.split import Split
from lowrung.finetune.data.template import Format
from lowrung.finetune.found import Preflight, Subject
from lowrung.finetune.lora import fit, injection, unadapted
from lowrung.finetune.models import added_tokens, context, ends, pretrained, soundness
from lowrung.finetune.models import weights as held
from lowrung.finetune.training import metrics, user_metrics
from lowrung.store import layout


def check(subject: Subject) -> Preflight:
    """Finds a model and its data, checks them against the settings, and turns the data into tokens."""
    base, data, adapters, trains = subject.base, subject.data, subject.adapters, subject.trains
    found = [*metrics.problems(data.metrics), *_training_problems(trains)]
    located = _located(base, subject.weights, found)
    if located is not None:
        base = located
        found += _model_problems(base, adapters, data.max_length, is_whole=subject.weights)
        found += _division_problems(base, trains)
    examples = _corpus(data, found)
    if found or examples is None:
        return Preflight(tuple(found))
    try:
        found_rows = _of_rows(base, subject, examples)
    except UsageError as error:
        return Preflight(tuple(error.problems))
    settings = {**_training_notes(trains), **_adapter_notes(base, adapters)}
    of_settings = dict.fromkeys(note for notes in settings.values() for note in notes)
    notes = (*of_settings, *_weight_notes(base), *found_rows.notes)
    return dataclasses.replace(
        found_rows,
        notes=notes,
        settings=settings,
        base=sizes.of_base(base),
        trained=sizes.of_trained(base, adapters, trains, subject.device),
        flops_per_second=speed.flops_per_second(base),
        threads=torch.get_num_threads(),
        machine=machine.described(),
    )


def _of_rows(base: ModelConf, subject: Subject, examples: Corpus) -> Preflight:
    """What is found of the data: as tokens that the model has read, or as far as it is known without weights.

    Raises:
        UsageError: when the tokenizer and the data do not go together, or the model and the tokens.
    """
    data, store = subject.data, subject.store
    if not subject.weights and not pretrained.has_tokenizer(pretrained.folder_of(base)):
        return _untokenised(base, data, examples, store)
    found, rows = _prepared(base, data, examples, store)
    if not subject.weights:
        return found
    read = forward.notes(base, rows, new_tokens=subject.new_tokens, scores=data.metrics)
    return dataclasses.replace(found, notes=(*found.notes, *(read or ())), is_read=read is not None)


def _untokenised(base: ModelConf, data: DataConf, examples: Corpus, store: Path) -> Preflight:
    """What is known of examples without a tokenizer: how many they are, and how long they are at most."""
    parts = {"training": examples.train, "evaluation": examples.eval}
    fingerprint = examples.fingerprint
    return Preflight(
        notes=(*examples.unread, *_duplicate_notes(examples)),
        model_fingerprint=pretrained.fingerprint(pretrained.folder_of(base), layout.fingerprints_folder(store)),
        learning_rate=_prior(base),
        revision=pretrained.origin_of(base)[1],
        data_fingerprint=fingerprint,
        splits=tuple(
            Split(examples.name, fingerprint, examples.source, context, len(part)) for context, part in parts.items()
        ),
        rows=tuple(sizes.of_unknown_rows(len(part), data.max_length) for part in parts.values()),
    )


def _prepared(base: ModelConf, data: DataConf, examples: Corpus, store: Path) -> tuple[Preflight, Prepared]:
    """Turns the data into tokens.

    Raises:
        UsageError: when the tokenizer and the data do not go together.
    """
    tokenizer = pretrained.tokenizer_of(base)
    if problems := prepared.problems(examples, tokenizer, data):
        raise UsageError(problems)
    fingerprint = pretrained.fingerprint(pretrained.folder_of(base), layout.fingerprints_folder(store))
    key = prepared.key(examples, tokenizer, data, fingerprint, base.added_tokens, source.digest())
    folder = layout.tokens_folder(store, key)
    rows = prepared.prepare(examples, tokenizer, data, folder)
    if data.metrics and not rows.has_prompts:
        raise UsageError(
            f"data.metrics must be empty for data without prompts, since metrics score answers, but is {data.metrics}."
            " Use data.metrics=[]."
        )
    found = Preflight(
        notes=(
            *examples.unread,
            *_duplicate_notes(examples),
            *rows.notes,
            *_unseen_notes(base, rows),
            *_end_notes(base, rows, data),
        ),
        model_fingerprint=fingerprint,
        learning_rate=_prior(base),
        revision=pretrained.origin_of(base)[1],
        data_fingerprint=rows.fingerprint + user_metrics.fingerprint(data.metrics),
        splits=rows.splits(examples.name, examples.source),
        data_folder=folder,
        rows=(sizes.of_rows(rows.train), sizes.of_rows(rows.eval)),
    )
    return found, rows


def _prior(base: ModelConf) -> float:
    skeleton = pretrained.skeleton(base)
    embedding: Any = skeleton.get_input_embeddings()
    width = getattr(skeleton.config.get_text_config(), "hidden_size", embedding.weight.shape[1])
    return prior.learning_rate(skeleton.config.model_type, int(width))


def _training_problems(trains: Sequence[TrainConf]) -> list[str]:
    """Problems of what goes to TRL; most runs give it nothing, and need not import it here (4 s)."""
    special = [_at_some_rate(train) for train in trains if _is_special(train)]
    if not special:
        return []
    from lowrung.finetune.training import sft_trial

    return sft_trial.problems(special)


def _training_notes(trains: Sequence[TrainConf]) -> dict[str, list[str]]:
    """Notes of what goes to TRL, by the digests of the settings."""
    found: dict[str, list[str]] = {schema.digest(train): [] for train in trains}
    for train in filter(_is_special, trains):
        from lowrung.finetune.training import sft_trial

        found[schema.digest(train)] = sft_trial.notes([_at_some_rate(train)])
    return found


def _is_special(train: TrainConf) -> bool:
    return bool(train.sft) or train.lr_scheduler_type not in SCHEDULES


def _at_some_rate(train: TrainConf) -> TrainConf:
    return dataclasses.replace(train, learning_rate=train.learning_rate or prior.RATE)  # any rate will do


def _located(base: ModelConf, weights: bool, problems: list[str]) -> ModelConf | None:
    """The model once its folder is there, built or fetched where it must be; adds to the problems where it is not."""
    try:
        located = base if weights else pretrained.without_weights(base)
        _ = pretrained.folder_of(located)
    except UsageError as error:
        problems += error.problems
        return None
    return located


def _corpus(data: DataConf, problems: list[str]) -> Corpus | None:
    """The examples; adds to the problems where there are none."""
    try:
        return corpus.load(data)
    except UsageError as error:
        problems += error.problems
        return None


def _model_problems(base: ModelConf, adapters: Sequence[LoraConf], max_length: int, *, is_whole: bool) -> list[str]:
    if found := soundness.problems(base, is_whole=is_whole):
        return found
    skeleton, rows = pretrained.skeleton(base), pretrained.added_rows(base)
    loras = [lora for lora in adapters if not lora.is_full]
    found = list(dict.fromkeys(problem for lora in loras for problem in fit.problems(skeleton, lora, rows)))
    found = found or injection.refusals(skeleton, loras, rows)
    limit = context.limit(skeleton.config)
    if limit is not None and max_length > limit:
        found.append(f"data.max_length must be at most the model's context of {limit}, but is {max_length}.")
    return found


def _division_problems(base: ModelConf, trains: Sequence[TrainConf]) -> list[str]:
    if all(train.parallel != "fsdp" for train in trains) or pretrained.is_divisible(base):
        return []
    return [
        f"train.parallel=fsdp must have a model whose blocks transformers can divide, but {base.path} has none that it"
        " knows, or has each expert as a module of its own. Use train.parallel=ddp."
    ]


def _adapter_notes(base: ModelConf, adapters: Sequence[LoraConf]) -> dict[str, list[str]]:
    """What the user should know of each adapter, by the digests of their settings."""
    skeleton = pretrained.skeleton(base)
    return {schema.digest(lora): [] if lora.is_full else list(unadapted.notes(skeleton, lora)) for lora in adapters}


def _weight_notes(base: ModelConf) -> list[str]:
    folder = pretrained.folder_of(base)
    if not pretrained.has_weights(folder):  # a plan without them
        return []
    return held.notes(pretrained.plain_skeleton(folder, trust_remote_code=base.trust_remote_code), folder)


def _unseen_notes(base: ModelConf, rows: Prepared) -> Iterator[str]:
    """Names added tokens that no training example holds: a chat template drops them, or texts spell them otherwise."""
    if not base.added_tokens:
        return
    unseen = dict(
        zip(added_tokens.numbers(pretrained.tokenizer_of(base), base.added_tokens), base.added_tokens, strict=True)
    )
    for row in rows.train:
        for number in unseen.keys() & set(row["input_ids"]):
            del unseen[number]
        if not unseen:
            return
    yield f"no training example holds {', '.join(unseen.values())}, so nothing is learnt of these added tokens"


def _end_notes(base: ModelConf, rows: Prepared, data: DataConf) -> Iterator[str]:
    """Says where training teaches no end of an answer, or another one than the base has."""
    if rows.has_prompts:
        tokenizer = pretrained.tokenizer_of(base)
        template, listed = Format.of(data).template(tokenizer), ends.listed(pretrained.folder_of(base))
        yield from taught.taught(tokenizer, template, listed=listed, rows=rows.train).notes(tokenizer)


def _duplicate_notes(examples: Corpus) -> tuple[str, ...]:
    if not examples.duplicates:
        return ()
    return (f"{examples.duplicates} training examples are among the held-out ones too, and were left out of training",)
