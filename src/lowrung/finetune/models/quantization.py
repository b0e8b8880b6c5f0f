"""Base models held in 8 or 4 bits a weight by bitsandbytes, and their weights as ordinary ones again."""

from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D


def config(kind: str, dtype: torch.dtype, *, double: bool) -> BitsAndBytesConfig:
    """How transformers is to quantise: ``int8``, or ``nf4`` that computes in ``dtype``, its constants quantised too."""
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )


def settle(model: PreTrainedModel) -> None:
    """Keeps bitsandbytes from changing weights during an evaluation."""
    for module in model.modules():
        # On a CPU with AVX512-BF16 the first evaluation would repack 4-bit weights for a kernel that computes in
        # bfloat16 and passes no gradient on; a base that was evaluated could not be trained or dequantised any more.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        if hasattr(module, "init_8bit_state"):
            module.register_forward_pre_hook(_give_scales_back)


def _give_scales_back(layer: Any, _: Any) -> None:
    """On a CPU, DoRA's pass over 8-bit weights puts copies in their place without their scales (PEFT 0.21)."""
    if layer.weight.CB is not None and layer.weight.SCB is None:
        layer.weight.SCB = layer.state.SCB


def dequantized(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A quantised model's weights as ordinary ones, with the layers that its architecture has; any other is only cast.

    Args:
        model: as `lowrung.finetune.models.pretrained.load_base` gives it; it is used up.
        dtype: of all weights.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        for name, module in list(model.named_modules()):
            if hasattr(module, "source_cls"):  # transformers' note of which layer was quantised
                model.set_submodule(name, _ordinary_layer(module, dtype))
        quantizer.remove_quantization_config(model)
        model.is_loaded_in_4bit = model.is_loaded_in_8bit = False  # type: ignore[assignment]
    model.to(dtype)  # type: ignore[arg-type]
    return model


def _ordinary_layer(module: Any, dtype: torch.dtype) -> nn.Module:
    """The layer that a quantised one was made from. Conv1D's weight is (in, out), where all others are (out, in)."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    weight = dequantize_bnb_weight(module.weight, getattr(module, "state", None)).to(dtype)
    layer: nn.Module
    with torch.device("meta"):
        if module.source_cls is Conv1D:
            layer, weight = Conv1D(module.out_features, module.in_features), weight.T.contiguous()
        else:
            layer = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    layer.weight = nn.Parameter(weight)
    layer.bias = module.bias
    return layer.train(module.training)
