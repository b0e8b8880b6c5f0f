"""What a preflight checks, and what it has found. It imports no library, since whoever starts runs imports it."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.config.schema import DataConf, LoraConf, ModelConf, TrainConf
from lowrung.costs.sizes import BaseSizes, RowSizes, TrainedSizes
from lowrung.finetune.data.split import Split


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a preflight checks: a model, its data, and all settings that are to be used with them.

    Attributes:
        base: the base model.
        data: the task.
        store: the results' folder; the tokens are kept there.
        adapters: the settings of each adapter that is to be put on the model.
        trains: each way in which it is to be trained.
        new_tokens: the most tokens that the gate generates from a prompt.
        weights: whether the model is loaded and reads the data. Without, the preflight is for a plan: its files of
            weights need not be there, nor its tokenizer, and of a hub model they are not fetched. What only they show
            is not among the problems and notes. Such a preflight is not kept (`lowrung.runs.known`).
        device: ``cpu`` or ``cuda``, where a plan is for another than this process's.
    """

    base: ModelConf
    data: DataConf
    store: Path
    adapters: Sequence[LoraConf]
    trains: Sequence[TrainConf] = ()
    new_tokens: int = 0
    weights: bool = True
    device: str | None = None


@dataclasses.dataclass(frozen=True)
class Preflight:
    """The result of a preflight.

    Attributes:
        problems: what the user must change first; when there are any, the other fields are empty.
        notes: what the user should know.
        model_fingerprint: a hash of the base model's content.
        learning_rate: the model's prior for LoRA; see `lowrung.config.prior`.
        revision: the commit of a hub model. All runs load this one, although its branch may move meanwhile.
        data_fingerprint: a hash of all examples as tokens, and of the user's own metrics.
        splits: what is recorded of the examples.
        data_folder: the folder with the examples as tokens.
        settings: the notes of each adapter's and each training's settings, by their digest. All were checked.
        is_read: whether the model has read the data; not where the memory did not suffice.
        files: the SHA-256 of each file of the model, the data and the user's metrics, by its path; none where it is
            not known which files were read.
        base: the base's sizes.
        trained: those of each adapter and way to train, by `lowrung.costs.sizes.trained_key`, and of each by its ranks.
        rows: those of the training and of the held-out rows.
        flops_per_second: how fast the process that found this multiplied matrices, in the base's precision.
        threads: CPU threads of that process.
        machine: its machine, as `lowrung.config.machine.described` says it; on a cluster that of a node.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model_fingerprint: str = ""
    learning_rate: float = 0.0
    revision: str | None = None
    data_fingerprint: str = ""
    splits: tuple[Split, ...] = ()
    data_folder: Path = Path()
    settings: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    is_read: bool = False
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    base: BaseSizes | None = None
    trained: Mapping[str, Mapping[int, TrainedSizes]] = dataclasses.field(default_factory=dict)
    rows: tuple[RowSizes, ...] = ()
    flops_per_second: float = 0.0
    threads: int = 1
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, settings: Collection[str]) -> "Preflight | None":
        """What would have been found with these settings alone, by their digests; None where one was not checked."""
        if not set(settings) <= self.settings.keys():
            return None
        own = {note for name in settings for note in self.settings[name]}
        others = {note for notes in self.settings.values() for note in notes} - own
        notes = tuple(note for note in self.notes if note not in others)
        return dataclasses.replace(self, notes=notes, settings={name: self.settings[name] for name in settings})

    def beside(self, other: "Preflight") -> "Preflight":
        """The same with the settings of another one too, which was found of the same model and data."""
        notes = tuple(dict.fromkeys([*self.notes, *other.notes]))
        keys = [*other.trained, *self.trained]
        trained = {key: {**other.trained.get(key, {}), **self.trained.get(key, {})} for key in keys}
        settings = {**other.settings, **self.settings}
        return dataclasses.replace(self, notes=notes, settings=settings, trained=trained)
