"""MLflow's model registry: a name has versions, each a model that MLflow loads, and aliases that point at them."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow import entities, pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from lowrung.config import signature
from lowrung.track import probe
from lowrung.track.base import TrackError
from lowrung.track.opening import UNKNOWN, open_store, translated

VERIFIED_TAG = "lowrung.verified"
"""The tag of a version that was loaded from the registry and found to be right; others are of promotions cut off."""

LOADER = "lowrung_served"
"""What the loading code is called beside a model, as a module."""

REQUIREMENTS = ("mlflow", "torch", "transformers", "peft", "accelerate", "safetensors")
"""What a registered model needs to be loaded."""

_DESCRIPTION_LENGTH, _TAG_LENGTH, _NAME_LENGTH = 5000, 5000, 256  # characters; MLflow's columns
_NAME = re.compile(r"\w[\w.-]*")
_ALIAS = re.compile(r"[\w-]+")
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
T = TypeVar("T")


def problems(name: str, alias: str) -> list[str]:
    """What is wrong with a registered model's name and alias, a sentence or two each."""
    found = []
    if not _NAME.fullmatch(name) or len(name) > _NAME_LENGTH:
        found.append(
            "--name must begin with a letter or digit, and hold only letters, digits, '.', '_' and '-', at most"
            f" {_NAME_LENGTH} of them, but is {name!r}."
        )
    if not _ALIAS.fullmatch(alias) or len(alias) > _NAME_LENGTH - 1:
        found.append(f"--alias must hold only letters, digits, '_' and '-', but is {alias!r}.")
    elif _RESERVED.fullmatch(alias):
        found.append(f"--alias must not be latest, or v with a number, which MLflow reserves, but is {alias!r}.")
    return found


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is to be registered.

    Attributes:
        name: the registered model's.
        run: the id of the run that it comes from.
        folder: the adapter's or the whole model's.
        loader: a Python file with ``_load_pyfunc(folder, settings)``; a copy goes with the model.
        settings: what the loader is given.
        example: a prompt.
        packages: needed beside `REQUIREMENTS`.
        identity: tags of the version that say which model it is: another version with them is the same.
        tags: further tags of the version.
        description: of the version, in Markdown.
    """

    name: str
    run: str
    folder: Path
    loader: Path
    settings: Mapping[str, Any]
    example: str
    packages: Sequence[str]
    identity: Mapping[str, str]
    tags: Mapping[str, str]
    description: str


@dataclasses.dataclass(frozen=True)
class Said:
    """What a model says.

    Attributes:
        answers: one to each prompt.
        logits: of the token after each row, over the vocabulary.
    """

    answers: Sequence[str]
    logits: Sequence[Sequence[float]]


class Registry:
    """The model registry of a store.

    Args:
        uri: the address of the store, absolute.

    Raises:
        UsageError: when the address cannot be used.
        TrackError: when the store is missing, does not answer, or has no registry.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client = open_store(uri)
        with translated():
            self._client.search_registered_models(max_results=1)

    def known(self, name: str, identity: Mapping[str, str]) -> str | None:
        """The number of the verified version with these tags, or None."""
        numbers = [int(one.version) for one in self._versions(name, identity) if VERIFIED_TAG in one.tags]
        return str(max(numbers)) if numbers else None

    def register(self, entry: Entry, check: Callable[[str], T]) -> tuple[str, T]:
        """Makes a version, whole and checked, or none; what a promotion that was killed has left of it goes.

        Args:
            entry: what is registered.
            check: called with the address of the version; what it raises ends it.

        Returns:
            the version's number, and what the check found.

        Raises:
            TrackError: when the store refuses, or is lost.
        """
        for left in self._versions(entry.name, entry.identity):
            if VERIFIED_TAG not in left.tags:
                self._delete(entry.name, left.version)
        source = self._upload(entry)
        with self._name(entry.name):
            version = self._create(entry, source)
            try:
                found = check(f"models:/{entry.name}/{version}")
                with translated():
                    self._client.set_model_version_tag(entry.name, version, VERIFIED_TAG, "true")
            except BaseException:
                with contextlib.suppress(TrackError):
                    self._delete(entry.name, version)
                raise
        return version, found

    def point(self, name: str, alias: str, version: str) -> str | None:
        """Points an alias at a version; returns the version that it pointed at before, or None."""
        with translated():
            aliases = self._client.get_registered_model(name).aliases
            before = str(aliases[alias]) if alias in aliases else None  # a database gives numbers, a server text
            if before != version:
                self._client.set_registered_model_alias(name, alias, version)
        return before

    def ask(self, model: str, prompts: Sequence[str], *, new_tokens: int, rows: Sequence[Sequence[int]] = ()) -> Said:
        """What a model says when MLflow loads it in a fresh process.

        Args:
            model: its address, ``models:/NAME/VERSION``.
            prompts: what is asked.
            new_tokens: the most tokens of an answer.
            rows: token ids, after which logits are taken; of models of transformers alone.

        Raises:
            TrackError: when it cannot be loaded, or does not answer.
        """
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self._uri, "MLFLOW_REGISTRY_URI": self._uri}
        with tempfile.TemporaryDirectory() as folder:
            question, answer = Path(folder) / "question.json", Path(folder) / "answer.json"
            asked = {"prompts": list(prompts), "new_tokens": new_tokens, "rows": [list(row) for row in rows]}
            question.write_text(json.dumps(asked), encoding="utf-8")
            # -P: the script's own folder is not searched, where mlflow.py would be taken for MLflow.
            command = [sys.executable, "-P", probe.__file__, model, str(question), str(answer)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise TrackError(f"MLflow cannot load {model} in a fresh process: {last}")
            return Said(**json.loads(answer.read_text(encoding="utf-8")))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _versions(self, name: str, tags: Mapping[str, str]) -> list[entities.model_registry.ModelVersion]:
        with translated():
            found = self._client.search_model_versions(f"name = '{name}'")
        return [version for version in found if tags.items() <= version.tags.items()]

    @contextlib.contextmanager
    def _name(self, name: str) -> Iterator[None]:
        """Makes the registered model where there is none; an error in the block takes a new one away again."""
        is_new = self._make_name(name)
        try:
            yield
        except BaseException:
            if is_new:
                with contextlib.suppress(TrackError), translated():
                    self._client.delete_registered_model(name)
            raise

    def _make_name(self, name: str) -> bool:
        with translated():
            try:
                self._client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code not in UNKNOWN:
                    raise
                self._client.create_registered_model(name)
                return True
        return False

    def _upload(self, entry: Entry) -> str:
        """Puts the model among its run's artifacts; returns the address."""
        folder = "/".join(["promoted", entry.name, *entry.identity.values()])
        with translated(), tempfile.TemporaryDirectory(dir=entry.folder.parent) as working:
            made = _save(entry, Path(working))
            self._client.log_artifacts(entry.run, str(made), folder)
            return f"{self._client.get_run(entry.run).info.artifact_uri}/{folder}"

    def _create(self, entry: Entry, source: str) -> str:
        tags = {tag: value[:_TAG_LENGTH] for tag, value in {**entry.identity, **entry.tags}.items()}
        description = entry.description[:_DESCRIPTION_LENGTH]
        with translated():
            made = self._client.create_model_version(entry.name, source, entry.run, tags=tags, description=description)
        return str(made.version)

    def _delete(self, name: str, version: str) -> None:
        with translated():
            self._client.delete_model_version(name, version)


def _save(entry: Entry, working: Path) -> Path:
    """Writes the model down as MLflow loads it: its files, the code that loads them, and nothing that is pickled."""
    loader, model = working / f"{LOADER}.py", working / "model"
    shutil.copy(entry.loader, loader)
    versions = signature.versions((*REQUIREMENTS, *entry.packages))
    text = Schema([ColSpec("string")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyfunc.save_model(
            model,
            loader_module=LOADER,
            data_path=str(entry.folder),
            code_paths=[str(loader)],
            model_config=dict(entry.settings),
            signature=ModelSignature(text, text, ParamSchema([ParamSpec("new_tokens", "integer", 64)])),
            input_example=([entry.example], {"new_tokens": 64}),
            pip_requirements=[f"{package}=={version}" for package, version in versions.items()],
        )
    return model
