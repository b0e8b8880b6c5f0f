"""A registered model as MLflow loads it: an adapter on its base, or a merged model, that answers prompts.

A copy of this file goes with every model that `lowrung promote` registers. It is all the code that the model needs, so
it uses nothing of lowrung. Its answers must be those of `lowrung.adapters.answers`: promoting compares both.
"""

import copy
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

NEW_TOKENS = 64
"""The most tokens of an answer, unless ``params`` have ``new_tokens``."""


class Answering:
    """Answers prompts greedily.

    Attributes:
        model: in evaluation mode; with the adapter on it, if it is one.
        tokenizer: as it was saved after training.
        chat: what formats prompts: ``template``, a chat template whose clock stands at the day of training, and its
            ``variables``; None where prompts are plain.
        ends: what ends an answer: ``tokens``, ids each of which does, and ``text``, which does where it is not empty.
        context: the tokens that the model takes, prompt and answer together; None for any number.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        chat: Mapping[str, Any] | None,
        ends: Mapping[str, Any],
        context: int | None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.chat = chat
        self.ends = ends
        self.context = context

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Answers each prompt of a data frame's first column, with at most ``params["new_tokens"]`` tokens."""
        new_tokens = int((params or {}).get("new_tokens", NEW_TOKENS))
        return [self._answer(str(prompt), new_tokens) for prompt in model_input.iloc[:, 0]]

    def get_raw_model(self) -> Any:
        """The model itself: MLflow's `PyFuncModel.get_raw_model`."""
        return self.model

    @torch.no_grad()
    def _answer(self, prompt: str, new_tokens: int) -> str:
        ids = torch.tensor(
            [self._plain(prompt) if self.chat is None else self._chat(prompt, **self.chat)], device=self.model.device
        )
        # What is not set here transformers takes from the model's own generation config: a copy of the object has none.
        plain = copy.copy(self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model)
        plain.generation_config = GenerationConfig()
        text, width = self.ends["text"], ids.shape[1]

        def is_done(so_far: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return torch.tensor([text in self.tokenizer.decode(so_far[0, width:])], device=so_far.device)

        output = type(plain).generate(
            plain,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                max_new_tokens=min(new_tokens, self._room(width)),
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=list(self.ends["tokens"]) or None,
            ),
            stopping_criteria=[is_done] if text else None,
        )
        given = itertools.takewhile(lambda token: token not in self.ends["tokens"], output[0, width:].tolist())
        answer = str(self.tokenizer.decode(list(given), skip_special_tokens=True))
        return (answer.partition(text)[0] if text else answer).strip()

    def _room(self, tokens: int) -> int:
        """How many tokens the model's context has left behind a prompt of so many: an answer ends there.

        Raises:
            ValueError: when there is no room for an answer.
        """
        context = sys.maxsize if self.context is None else self.context
        if tokens >= context:
            raise ValueError(f"a prompt must leave room for an answer, but takes {tokens} of {context} tokens")
        return context - tokens

    def _chat(self, prompt: str, template: str, variables: Mapping[str, Any]) -> list[int]:
        """The token ids before an answer: the template's, as far as they stay the same once the answer is there."""
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "."}]
        asked, answered = (
            self.tokenizer.apply_chat_template(
                turns,
                chat_template=template,
                tokenize=True,
                return_dict=True,
                add_generation_prompt=is_open,
                **variables,
            )
            for turns, is_open in ((messages[:1], True), (messages, False))
        )
        pairs = zip(asked["input_ids"], answered["input_ids"], strict=False)
        return [token for token, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]

    def _plain(self, prompt: str) -> list[int]:
        """The token ids of the prompt on a line by itself, without an end token that the tokenizer may add."""
        ids = list(self.tokenizer(prompt if prompt[-1:].isspace() else f"{prompt}\n")["input_ids"])
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids


def _load_pyfunc(folder: str, config: Mapping[str, Any]) -> Answering:
    """Loads the model; MLflow calls this.

    Args:
        folder: the adapter's, or the merged model's.
        config: ``base`` and ``revision`` of an adapter's base, ``dtype``, further ``options`` of ``from_pretrained``,
            ``chat``, ``ends`` and ``context`` (see `Answering`). For a base in another folder:
            ``load_model(uri, model_config={"base": PATH})``.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    is_adapter = (Path(folder) / "adapter_config.json").is_file()
    options = dict(config["options"])
    if "quantization_config" in options:
        options.setdefault("device_map", {"": device})  # weights are quantised on their device
    model: Any = AutoModelForCausalLM.from_pretrained(
        config["base"] if is_adapter else folder,
        revision=config["revision"] if is_adapter else None,
        dtype=_dtype(config["dtype"], device),
        use_safetensors=True,
        trust_remote_code=False,
        **options,
    )
    for module in model.modules():
        # Training did not compute 4-bit layers in bfloat16; bitsandbytes does on a CPU with AVX512-BF16.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if "device_map" not in options:
        model.to(device)
    if is_adapter:
        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(len(tokenizer))
        model = PeftModel.from_pretrained(model, folder)
    return Answering(model.eval(), tokenizer, chat=config["chat"], ends=config["ends"], context=config["context"])


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on a GPU that has it, else float32: what lowrung trains in."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype
