"""Do a folder's weights fit the model that its config.json describes? Names and shapes are read, not the weights.

transformers loads what fits, and draws the rest at random with a warning. Its own loader is asked here, with tensors
that have no content: it knows which names have changed between its versions, what is tied and what may be absent.
"""

import contextlib
import json
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from lowrung.errors import UsageError, some
from lowrung.finetune.models import pretrained

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""What transformers takes the weights from: the first, or where there is none the files that the second one lists."""


def problems(model: PreTrainedModel, folder: Path) -> list[str]:
    """Why the model in a folder would not have the weights that lie there.

    Args:
        model: its skeleton, on the meta device.
        folder: the model's, with safetensors.
    """
    try:
        loaded = _loaded(model, folder)
    except UsageError as error:
        return error.problems
    except Exception as error:  # whatever a foreign file makes transformers raise
        return [
            f"model.path must have weights that transformers can load, but those in {folder} it cannot:"
            f" {textwrap.shorten(str(error), 300, placeholder=' …')}"
        ]
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found = list(_missing(sorted(trained & loaded["missing_keys"]), len(trained), loaded["unexpected_keys"], folder))
    if wrong := sorted(loaded["mismatched_keys"]):
        name, held, wanted = wrong[0]
        found.append(
            f"model.path must have weights of the shapes that its config.json says, but in {folder} {name} has"
            f" {tuple(held)} instead of {tuple(wanted)}{_and_more(wrong)}. The config and the weights are of different"
            " models; bring those that belong together."
        )
    return found


def notes(model: PreTrainedModel, folder: Path) -> list[str]:
    """What of the weights in a folder without `problems` the model does not have, or takes from elsewhere."""
    loaded = _loaded(model, folder)
    found = []
    if loaded["unexpected_keys"]:
        found.append(
            f"{len(loaded['unexpected_keys'])} tensors in {folder} are not of the model, and are left out:"
            f" {some(sorted(loaded['unexpected_keys']))}"
        )
    if loaded["missing_keys"]:  # of buffers alone
        found.append(
            f"{len(loaded['missing_keys'])} constants of the model are not in {folder}, and have the values that"
            f" transformers gives them: {some(sorted(loaded['missing_keys']))}"
        )
    return found


def _missing(names: list[str], count: int, foreign: Collection[str], folder: Path) -> Iterator[str]:
    if not names:
        return
    rule = (
        f"model.path must have all weights of its model, but {len(names)} of {count} are not in {folder}:"
        f" {some(names)}. They would be random numbers."
    )
    prefixes = Counter(
        known.removesuffix(name) for name in names for known in foreign if known.endswith(name) and known != name
    )
    if not prefixes:
        yield f"{rule} Bring the folder as it was saved, with every file."
        return
    prefix = prefixes.most_common(1)[0][0]
    origin = next((words for mark, words in ORIGINS.items() if mark in prefix), "")
    yield f"{rule} The names there begin with {prefix!r}{origin}."


ORIGINS = {
    "base_model.model.": ", as those of a model with an adapter do: save it after its merge_and_unload()",
    "_orig_mod.": ", as those of a compiled model do: save the model that was compiled",
    "module.": ", as those of a model that was trained in parallel do: save its .module",
}
"""Who writes names with a prefix, and what to save instead."""


def _loaded(model: PreTrainedModel, folder: Path) -> Mapping[str, Any]:
    """What transformers says after it has loaded tensors of these names and shapes, without content.

    Raises:
        UsageError: when a file is not there or cannot be read.
    """
    held = {name: tensor for file in _files(model, folder) for name, tensor in _tensors(file).items()}
    kind: Any = type(model)
    with pretrained.quiet(), _without_report():
        _, loaded = kind.from_pretrained(
            None,
            config=model.config,
            state_dict=held,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return dict(loaded)


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Keeps transformers from printing what is said here in other words."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _files(model: PreTrainedModel, folder: Path) -> list[Path]:
    """The files that transformers takes the weights from.

    Raises:
        UsageError: when there are none, or one of them is not there.
    """
    first = getattr(model.config, "transformers_weights", None) or SINGLE
    also = [folder / name for name in type(model.config).extra_files if (folder / name).is_file()]
    if (folder / first).is_file() and not first.endswith(".json"):
        return [folder / first, *also]
    index = folder / (first if first.endswith(".json") else INDEX)
    if not index.is_file():
        others = ", ".join(sorted(file.name for file in folder.glob("*.safetensors")))
        raise UsageError(
            f"model.path must have its weights in {first}, or in several files that {INDEX} lists, but {folder} has"
            f" only {others}. Save the model with its save_pretrained."
        )
    names = _listed(index)
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise UsageError(
            f"model.path must have every file of its weights, but {len(absent)} of {len(names)} that {index} lists are"
            f" not there: {some(absent)}. Fetch or copy the model again."
        )
    return [*(folder / name for name in names), *also]


def _listed(index: Path) -> list[str]:
    """The files that an index lists, each once."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        if names:
            return sorted(names)
    raise UsageError(
        f"model.path must have an index of its weights that is JSON with a weight_map, but {index} is not. Fetch or"
        " copy the model again."
    )


def _tensors(file: Path) -> dict[str, Tensor]:
    """Tensors without content, of the names and shapes that a file has; only its head is read."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {
                name: torch.empty(opened.get_slice(name).get_shape(), device="meta")
                for name in opened.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"model.path must have weights that can be read, but {file} ({file.stat().st_size:,} bytes) is cut off or"
            f" no safetensors: {error}. Fetch or copy it again."
        ) from None


def _and_more(wrong: list[Any]) -> str:
    return f", and {len(wrong) - 1} more do not fit" if len(wrong) > 1 else ""
