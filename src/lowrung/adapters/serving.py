"""How a registered model is to be loaded: the settings of `lowrung.adapters.pyfunc_loader`."""

import json
from typing import Any

from lowrung.adapters.answers import Asked, tokenizer_of
from lowrung.finetune.data import tokens
from lowrung.finetune.models import pretrained, quantization


def settings(one: Asked) -> dict[str, Any]:
    """What makes `lowrung.adapters.pyfunc_loader` answer as one who is asked; it can be written down as JSON.

    Args:
        one: an adapter on its base, or a whole model, which is its own base and is found by where it is kept.
    """
    base = one.base
    path, revision = pretrained.origin_of(base)
    where = {"base": path, "revision": revision} if one.adapter else {}
    chosen = {"attn_implementation": base.attn_implementation, "device_map": base.device_map}
    options: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if base.quantization != "none":
        dtype = pretrained.dtype_for(base.dtype, pretrained.device())
        how = quantization.config(base.quantization, dtype, double=base.double_quantization)
        options["quantization_config"] = json.loads(how.to_json_string())  # a dict of its own would hold enums
    is_chat = tokens.is_chat(one.format, tokenizer_of(one))
    return {**where, "dtype": base.dtype, "options": options, "is_chat": is_chat}
