"""Which files a preflight reads, and what is in them."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowrung.config.schema import DataConf, ModelConf, SourceConf
from lowrung.errors import UsageError
from lowrung.finetune.training import metrics, user_metrics
from lowrung.store import fingerprints, layout

OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".tflite")
"""Formats of weights that are never loaded, and often as large as those that are."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a preflight reads.

    Attributes:
        model: the model's folder, of which weights of other formats are not read, nor folders but that of templates.
        files: single files.
        folders: folders of which everything is read.
    """

    model: str
    files: list[str]
    folders: list[str]

    @classmethod
    def of(cls, base: ModelConf, data: DataConf) -> "Sources | None":
        """Those of a model, which is built or fetched first where it must be, and of data; None where there is none."""
        from lowrung.finetune.models import pretrained

        if metrics.problems(data.metrics):  # which imports the user's modules
            return None
        try:
            model = pretrained.folder_of(base)
        except UsageError:
            return None
        branch = model.parents[1] / "refs" / (base.revision or "main")  # where the hub's cache notes its commit
        files = [*user_metrics.loaded_files(data.metrics), *_data_files(data), *([branch] if branch.is_file() else [])]
        return cls(str(model), [str(file) for file in files], [str(folder) for folder in _data_folders(data)])

    def with_folder(self, folder: Path) -> "Sources":
        """The same with one more folder."""
        return dataclasses.replace(self, folders=[*self.folders, str(folder)])

    def digests(self, store: Path) -> dict[str, str] | None:
        """The SHA-256 of all files; None where one cannot be read.

        Args:
            store: where digests are kept, so that a file that has not changed is not read again.
        """
        try:
            return fingerprints.sha256(self._files(), layout.fingerprints_folder(store))
        except OSError:
            return None

    def _files(self) -> Iterator[Path]:
        folder = Path(self.model)
        yield from (path for path in folder.iterdir() if path.is_file() and path.suffix not in OTHER_WEIGHTS)
        for within in (folder / "additional_chat_templates", *map(Path, self.folders)):
            for place, _, names in os.walk(within, followlinks=True):
                yield from (Path(place) / name for name in names)
        yield from map(Path, self.files)


def _data_files(data: DataConf) -> Iterator[Path]:
    for source in _parts(data):
        if source.name == "file":
            yield Path(str(source.path)).expanduser().absolute()
    if data.eval_path is not None:
        yield Path(data.eval_path).expanduser().absolute()


def _data_folders(data: DataConf) -> Iterator[Path]:
    """Local folders that `datasets.load_dataset` reads."""
    yield from (Path(str(source.path)).absolute() for source in _parts(data) if source.name == "hub")


def _parts(data: DataConf) -> Sequence[SourceConf]:
    return data.sources if data.name == "mixture" else [data]
