"""Whether a saved adapter is complete and compatible with its base; no weights of the base are loaded."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

from lowrung.adapters import files, injected, options, updates, vocabulary
from lowrung.adapters.files import Saved
from lowrung.adapters.options import Use
from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError, blaming, in_short, some
from lowrung.finetune.models import pretrained, soundness

KEEPS_BASE = ("true", "false", "gaussian", "eva", "orthogonal", "mica")
"""Inits that leave the base's weights alone when PEFT loads an adapter that names them. PiSSA, OLoRA, CorDA, LoRA-GA
and LoftQ do not, and what a later release may add is not known."""

OTHER_BASE = "Was it trained on another base? Name that: --base PATH."

SHOWN = 3
"""How many tensors a message names."""

Shapes = Mapping[str, tuple[int, ...]]


def problems(saved: Saved, base: ModelConf, use: Use = Use.LOAD) -> list[str]:
    """Why an adapter cannot be what was trained on a base, or cannot be used so, in words."""
    with blaming(f"The adapter in {saved.folder}, or its base, {base.path},"):
        return _problems(saved, base, use)


def _problems(saved: Saved, base: ModelConf, use: Use) -> list[str]:
    refused = [*options.problems(saved.config, use), *options.unknown_problems(saved)]
    found = [*refused, *_adapter_problems(saved)]
    # With an option that is not understood, what the adapter needs of its base is not known either.
    return found if refused else [*found, *_base_problems(saved, base, use)]


def check(saved: Saved, base: ModelConf, use: Use = Use.LOAD) -> None:
    """Refuses an adapter with `problems`.

    Raises:
        UsageError: with all of them.
    """
    if found := problems(saved, base, use):
        raise UsageError([f"{saved.folder}: {problem}" for problem in found])


def _adapter_problems(saved: Saved) -> Iterator[str]:
    config = saved.config
    if config.task_type not in (None, "CAUSAL_LM"):
        yield f"task_type must be CAUSAL_LM, a model that continues text, but is {config.task_type}."
    if str(config.init_lora_weights).lower() not in KEEPS_BASE:
        yield (
            f"init_lora_weights must not change the base when the adapter is loaded, but is {config.init_lora_weights}."
            " Save it again with PEFT's path_initial_model_for_weight_conversion, which converts it."
        )
    if wrong := [name for name, tensor in saved.tensors.items() if not files.is_finite(tensor)]:
        yield (
            f"every number must be finite, but {_some(wrong)} hold NaN or infinity. Train again with a lower learning"
            " rate."
        )
    found = updates.layers(saved)
    # The rank of experts is counted with the base: the shapes of their factors are compared there.
    if not config.target_parameters and (
        wrong := [
            f"{layer.name} ({layer.rank}, config {updates.rank(config, layer.name)})"
            for layer in found
            if layer.rank != updates.rank(config, layer.name)
        ]
    ):
        yield (
            f"ranks must be those of adapter_config.json, but are not in {_some(wrong)}: the scaling would be wrong."
            " Save the adapter again."
        )
    if found and all(layer.norm == 0 for layer in found) and len(saved.tensors) == 2 * len(found):
        yield "an adapter must change its base, but every update is zero: it was never trained. Train it first."


def base_problems(base: ModelConf) -> list[str]:
    """Why a base cannot be used that an adapter, its run, or ``--base`` names."""
    try:
        _ = pretrained.folder_of(base)
    except UsageError as error:
        return [f"{problem} Is the base elsewhere? Name that: --base PATH." for problem in error.problems]
    return soundness.problems(base)


def _base_problems(saved: Saved, base: ModelConf, use: Use) -> list[str]:
    if found := base_problems(base):
        return found
    rows = {files.base_name(name): len(tensor) for name, tensor in saved.tensors.items() if tensor.dim()}
    if found := list(vocabulary.problems(saved.folder, saved.config, rows, base)):
        return found
    try:
        saved = as_installed(saved, base)
        adapted = injected.model(saved.config, base)
    except ValueError as error:
        modules = {name for name, _ in pretrained.skeleton(base).named_modules()}
        absent = [layer.name for layer in updates.layers(saved) if layer.name not in modules]
        reason = f"{base.path} {f'has no {_some(absent)}' if absent else f'does not ({in_short(error)})'}"
        return [f"it must fit its base, but {reason}. {OTHER_BASE}"]
    misfits = list(_misfits(saved, *_shapes(adapted, base))) or list(_ignored(saved, adapted))
    found = [f"it must fit its base, but {base.path} {misfit}. {OTHER_BASE}" for misfit in misfits]
    return [*found, *(_bias_problems(saved.config, base) if use is Use.MERGE else ())]


def as_installed(saved: Saved, base: ModelConf) -> Saved:
    """The adapter with the layers that the installed transformers has, into which PEFT converts older ones.

    Experts were a module each before transformers 5, and are one parameter since.

    Raises:
        ValueError: when PEFT cannot give the base such an adapter.
    """
    if not any(".experts." in name for name in saved.tensors):
        return saved
    adapted = injected.model(saved.config, base)
    config = adapted.peft_config["default"]
    assert isinstance(config, LoraConfig)
    if set(config.target_parameters or ()) == set(saved.config.target_parameters or ()):
        return saved
    tensors = convert_peft_adapter_state_dict_for_transformers(adapted, config, dict(saved.tensors), "default")
    return dataclasses.replace(saved, config=config, tensors=tensors)


def check_biases(config: LoraConfig, base: ModelConf) -> None:
    """Refuses to merge biases of LoRA into layers that have none.

    Raises:
        UsageError: when an adapter of these settings has some, and layers of its base have none.
    """
    if found := _bias_problems(config, base):
        raise UsageError(found)


def _bias_problems(config: LoraConfig, base: ModelConf) -> list[str]:
    slots = injected.slots(injected.model(config, base)).values() if config.lora_bias else ()
    lacking = [slot.target for slot in slots if not slot.has_bias]
    if not lacking:
        return []
    return [
        f"lora_bias needs biases in the base to be merged into, but {base.path} has none in {_some(lacking)}, and its"
        " architecture has no room for them. Use the adapter unmerged (lowrung generate), or train without lora_bias."
    ]


def _misfits(saved: Saved, needed: Shapes, in_base: Shapes) -> Iterator[str]:
    """In what the tensors of a file differ from those that the base needs or has."""
    given = {name: tuple(tensor.shape) for name, tensor in saved.tensors.items()}
    if lacking := [name for name in needed if name not in given]:
        yield f"needs tensors that the file lacks: {_some(lacking)}"
    shapes = {name: needed.get(name, in_base.get(files.base_name(name))) for name in given}
    if unknown := [name for name, shape in shapes.items() if shape is None]:
        yield f"has no tensors of these names: {_some(unknown)}"
    if others := [
        f"{name} {given[name]}, where it needs {shape}"
        for name, shape in shapes.items()
        if shape not in (None, given[name])
    ]:
        yield f"has other shapes: {_some(others)}"


def _ignored(saved: Saved, adapted: PeftModel) -> Iterator[str]:
    """Which tensors of a file PEFT would leave out without a word, as it says itself."""
    tensors = {name: tensor.to("meta") for name, tensor in saved.tensors.items()}
    loaded: Any = set_peft_model_state_dict(adapted, tensors)
    if unexpected := loaded.unexpected_keys:
        yield f"has no use for tensors of these names: {_some(unexpected)}"


def _shapes(adapted: PeftModel, base: ModelConf) -> tuple[Shapes, Shapes]:
    """The shapes of an adapter, by their names in a file, and of the base's parameters, by theirs.

    A file may hold parameters of the base too, such as trained biases or an embedding that has grown.
    """
    bare = pretrained.skeleton(base).named_parameters(remove_duplicate=False)
    with injected.without_warnings():
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return (
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        {name: tuple(parameter.shape) for name, parameter in bare},
    )


def _some(names: Sequence[str]) -> str:
    return some([name.removeprefix(files.PREFIX) for name in names], SHOWN)
