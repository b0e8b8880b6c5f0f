"""Which layers an adapter's settings give a base: what PEFT itself makes of them, on a model without weights."""

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where an adapter changes its base.

    Attributes:
        target: the whole name of the module that is adapted, or of the parameter: experts are one parameter.
        is_parameter: whether it is a parameter (``target_parameters``).
        rank: r; the factors in the file have it once for each expert.
        scaling: alpha / r, or alpha / sqrt(r) with rsLoRA.
        experts: how many matrices the parameter stacks; 1 for a module.
        shape: (out, in) of the update, of one expert.
        has_bias: whether the base's module has a bias.
    """

    target: str
    is_parameter: bool
    rank: int
    scaling: float
    experts: int
    shape: tuple[int, int]
    has_bias: bool


def model(config: LoraConfig, base: ModelConf) -> PeftModel:
    """The base with an adapter of these settings, on the meta device.

    Raises:
        ValueError: when PEFT cannot give the base such an adapter.
    """
    config = copy.deepcopy(config)
    config.init_lora_weights = True
    config.inference_mode = True
    with without_warnings():
        return PeftModel(pretrained.skeleton(base), config)


def slots(adapted: PeftModel) -> Mapping[str, Slot]:
    """Where an adapter changes its base, by the names of these layers in a file."""
    modules = adapted.get_base_model().named_modules()
    return {name: _slot(name, module) for name, module in modules if isinstance(module, LoraLayer)}


def _slot(name: str, layer: Any) -> Slot:
    is_parameter = isinstance(layer, ParamWrapper)
    module = ".".join(part for part in name.split(".") if part != "base_layer")
    return Slot(
        f"{module}.{layer.parameter_name}" if is_parameter else module,
        is_parameter,
        int(layer.r["default"]),
        float(layer.scaling["default"]),
        layer.num_experts if is_parameter else 1,
        (layer.out_features, layer.in_features),
        getattr(layer.get_base_layer(), "bias", None) is not None,
    )


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Hides PEFT's warnings while an adapter is loaded or saved.

    They are about biases that come and go (which lowrung puts back), about layers that an adapter leaves alone (which
    is usual), about biases of LoRA that have the shape of one row, and about patterns of ranks that fit no module, even
    where they fit a parameter. Whether a file fills its layers exactly is checked by its tensors.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
