"""The adapter: attached to a base, and saved for the original base with its tokenizer."""

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, prepare_model_for_kbit_training
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.config.schema import LoraConf, is_converted
from lowrung.finetune.lora import data_driven, peft_config, residual, settings
from lowrung.finetune.models.head import Row

# -- attaching ---------------------------------------------------------------------------------------------------------


def attach(
    model: PreTrainedModel, lora: LoraConf, rows: Sequence[Row] = (), *, added_rows: Sequence[int] = ()
) -> PeftModel:
    """Puts a new LoRA adapter on a base model; the base's weights are frozen.

    Its outputs are the base's until the first step (up to rounding where the init is not default or gaussian), and with
    loftq until `lowrung.finetune.lora.loftq.start`; what is random is drawn from torch's generator.

    Args:
        model: the base; prepared by `prepare_quantized` if it is quantised.
        lora: the adapter's settings.
        rows: the training examples that the start is computed from, if it is of `lowrung.config.schema.DATA_INITS`.
        added_rows: the rows of embedding and head that are not the base's; see `pretrained.added_rows`.

    Raises:
        UsageError: when none of these examples reaches an adapted layer.
    """
    names = settings.targets(model, lora)
    if lora.init == "eva":
        adapted = _attach_eva(model, lora, data_driven.eva(model, names, lora, rows), added_rows)
    else:
        config = peft_config.make(model, lora, names, added_rows)
        if lora.init == "corda":
            data_driven.prepare_corda(model, config, names, rows)
        elif lora.init == "lora_ga":
            data_driven.prepare_lora_ga(model, config, names, rows)
        is_part = is_converted(lora.init) and not lora.use_dora
        weights = residual.coarse_weights(model, names) if is_part else {}
        adapted = get_peft_model(model, config)
        residual.subtract(adapted_layers(adapted), weights)
    if lora.use_dora:
        _set_magnitudes(adapted)
    return adapted


@torch.no_grad()
def _set_magnitudes(model: PeftModel) -> None:
    """Sets DoRA's magnitudes to the norms of the weights in float32, as the forward pass takes them.

    PEFT sets them in the base's precision: in bfloat16, SmolLM2-135M then starts a mean KL of 0.0025 off its base.
    Those of a quantised base are left, since the trainer holds its adapter in bfloat16.
    """
    for layer in adapted_layers(model).values():
        held = layer.get_base_layer().weight
        if held.is_floating_point():
            magnitude = layer.lora_magnitude_vector["default"]
            update = layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
            magnitude.weight.data.copy_(magnitude.get_weight_norm(held.float(), update, layer.scaling["default"]))


def _attach_eva(
    model: PreTrainedModel, lora: LoraConf, start: Mapping[str, Tensor], added_rows: Sequence[int]
) -> PeftModel:
    """An adapter with the ranks and the A of this start; each layer keeps the scaling that its settings give it."""
    ranks = {name: len(factor) for name, factor in start.items()}
    alphas = {
        name: data_driven.scaled_alpha(
            settings.alpha(lora, name), settings.rank(lora, name), rank, use_rslora=lora.use_rslora
        )
        for name, rank in ranks.items()
    }
    lora = dataclasses.replace(lora, init="default", rank_pattern=ranks, alpha_pattern=alphas)
    adapted = get_peft_model(model, peft_config.make(model, lora, list(ranks), added_rows))
    for name, layer in adapted_layers(adapted).items():
        layer.lora_A["default"].weight.data.copy_(start[name])
    return adapted


def adapted_layers(model: PeftModel) -> dict[str, Any]:
    """The layers with an adapter, by their whole names in the base; of an adapted parameter, by the parameter's."""
    layers = {name: module for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer)}
    return {_adapted_name(name, layer): layer for name, layer in layers.items()}


def _adapted_name(name: str, layer: LoraLayer) -> str:
    """PEFT wraps a module once for each of its parameters that is adapted, one wrapper within the other."""
    if not isinstance(layer, ParamWrapper):
        return name
    while name.endswith(".base_layer"):
        name = name.removesuffix(".base_layer")
    return f"{name}.{layer.parameter_name}"


def prepare_quantized(model: PreTrainedModel, *, gradient_checkpointing: bool) -> PreTrainedModel:
    """Freezes a quantised base, and puts what is not quantised in float32, so that gradients can flow through it."""
    prepared: PreTrainedModel = prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=gradient_checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    return prepared


def _state(model: PeftModel) -> dict[str, Tensor]:
    """What is trained, by its names in a saved adapter."""
    state: dict[str, Tensor] = get_peft_model_state_dict(model, state_dict=_whole(model), save_embedding_layers=False)
    return state


def _whole(model: PeftModel) -> dict[str, Tensor]:
    """The tensors that this process has whole: of a base that ranks divide, PEFT would gather every weight in each."""
    return {name: tensor for name, tensor in model.state_dict().items() if not isinstance(tensor, DTensor)}


def save_what_is_trained_alone(model: PeftModel) -> None:
    """Has the model's own ``save_pretrained``, which the trainer calls for checkpoints, save what `save` does.

    Where the base has grown, PEFT's would save both matrices whole beside the rows that are trained.
    """
    save_pretrained = model.save_pretrained

    def save(*arguments: Any, **named: Any) -> None:
        save_pretrained(*arguments, **{**named, "state_dict": _whole(model), "save_embedding_layers": False})

    model.save_pretrained = save  # type: ignore[method-assign]


def factors(model: PeftModel) -> dict[str, Tensor]:
    """Copies of all A and B, by their names in a saved adapter."""
    state = _state(model)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items() if _factor(name)}


def _factor(name: str) -> str | None:
    """Which factor a tensor is; a bias of B, by `lora.peft.lora_bias`, is none."""
    return next((factor for factor in ("lora_A", "lora_B") if name.endswith(f".{factor}.weight")), None)


def ranks(model: PeftModel) -> dict[str, dict[str, float]]:
    """Each adapted layer's rank, as it is trained, and the scaling of its update, by the layer's whole name.

    Of experts it is the rank of each. The saved adapter of an init that is converted has twice the rank at the same
    scaling.
    """
    return {
        name: {"rank": layer.r["default"], "scaling": layer.scaling["default"]}
        for name, layer in adapted_layers(model).items()
    }


# -- saving ------------------------------------------------------------------------------------------------------------


def save(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    origin: tuple[str, str | None],
    initial: Mapping[str, Tensor] | None = None,
) -> int:
    """Saves the adapter (safetensors) and its tokenizer to a folder, so that it loads on the original base.

    Args:
        model: the base with its adapter.
        tokenizer: the model's.
        folder: where to.
        origin: what the base is to be found by, and its revision.
        initial: the `factors` before training, of an init that `lowrung.config.schema.is_converted`.

    Returns:
        the size of the adapter's weights on disk, in bytes.
    """
    config = copy.deepcopy(model.peft_config["default"])
    assert isinstance(config, LoraConfig)
    config.base_model_name_or_path, config.revision = origin
    config.inference_mode = True
    # Loading would compute the start anew only to replace it: minutes of decompositions with mica.
    config.init_lora_weights, config.corda_config, config.lora_ga_config = True, None, None
    for name, value in vars(config).items():
        if isinstance(value, set):  # of names, which PEFT would write in another order in each process
            setattr(config, name, sorted(value))
    state = _state(model)
    if initial is not None:
        config, state = for_original_base(config, state, initial)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    # Copies: where PEFT ties what it trains, two names have one tensor, which the file must hold twice.
    held = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(held, folder / "adapter_model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(folder)
    return (folder / "adapter_model.safetensors").stat().st_size


def for_original_base(
    config: LoraConfig, state: Mapping[str, Tensor], initial: Mapping[str, Tensor]
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """An adapter of twice the rank that does to the original base what this one does to the base without its start.

    Training started at W = (W - s·B0·A0) + s·B0·A0, so what was trained is W + s·(B·A - B0·A0): the factors are
    stacked, the initial ones negated. s is kept: alpha doubles with the rank, or grows by sqrt(2) where the scaling is
    alpha / sqrt(r). All else, DoRA's magnitudes among it, stays as it was trained (PEFT's own conversion drops them,
    which is wrong by 0.1 in the logits of a tiny model).

    Args:
        config: the adapter's; ranks r.
        state: its tensors, with A of shape (r, in) and B of shape (out, r).
        initial: A0 and B0 by the same names.

    Returns:
        the config and the tensors, with A of shape (2r, in) and B of shape (out, 2r).
    """
    growth = math.sqrt(2) if config.use_rslora else 2
    config = copy.deepcopy(config)
    config.r = 2 * config.r
    config.lora_alpha = growth * config.lora_alpha  # type: ignore[assignment]
    config.rank_pattern = {key: 2 * rank for key, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {key: growth * alpha for key, alpha in (config.alpha_pattern or {}).items()}
    return config, {name: _stacked(name, tensor, initial) for name, tensor in state.items()}


def _stacked(name: str, trained: Tensor, initial: Mapping[str, Tensor]) -> Tensor:
    factor = _factor(name)
    if factor is None:
        return trained
    start = initial[name].to(trained)
    return torch.cat([trained, start], dim=0) if factor == "lora_A" else torch.cat([trained, -start], dim=1)
