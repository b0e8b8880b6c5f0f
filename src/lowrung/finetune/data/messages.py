"""One message of a chat: its role, its text, its calls of tools, and whether it is learnt."""

import json
from collections.abc import Mapping
from typing import Any

from lowrung.finetune.data.bad_rows import RowError

Message = Mapping[str, Any]
"""A message as chat templates take it: ``role``, ``content``, and any other key that it was written with."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
"""What ShareGPT, whose messages are ``{from, value}``, calls roles."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""The keys of an answer's reasoning, which transformers takes for one another."""

ANSWERS = ("content", "tool_calls", "function_call", *REASONING)
"""The keys that hold what an assistant says; an answer needs one of them."""

WEIGHTS = ("weight", "train", "training")
"""The keys that say whether a message is learnt: OpenAI's and Mistral's, and Axolotl's two."""


def read(value: Any, where: str) -> tuple[Message, bool]:
    """Reads a message.

    Args:
        value: as it was written.
        where: its place in the row, for messages: ``messages[2]``.

    Returns:
        the message without its weight, and whether it may be learnt: an assistant's, of weight 1.

    Raises:
        RowError: when it is no message.
    """
    if not isinstance(value, Mapping):
        raise RowError(f"{where} must be {{role, content}}, but is {shown(value)}")
    message = {str(key): item for key, item in value.items() if item is not None}
    if "role" not in message and "from" in message:
        role = message.pop("from")
        message = {"role": SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role, **message}
        if "value" in message:
            message["content"] = message.pop("value")
    if message.get("role") not in ROLES:
        given = shown(message["role"]) if "role" in message else f"missing in {shown(value)}"
        raise RowError(f"{where}.role must be one of {', '.join(ROLES)}, but is {given}")
    is_learnt = _weight(message, where)
    if "content" in message:
        message["content"] = _content(message["content"], f"{where}.content")
    if "tool_calls" in message:
        message["tool_calls"] = _calls(message["tool_calls"], f"{where}.tool_calls")
    if is_learnt:
        _must_answer(message, where)
    elif message["role"] != "assistant" and "content" not in message:
        raise RowError(f"{where} must be {{role, content}}, but is {shown(value)}")
    return message, is_learnt


def shown(value: Any) -> str:
    """A value with its type, short enough for a message."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def parsed(value: Any) -> Any:
    """What a JSON text holds; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _weight(message: dict[str, Any], where: str) -> bool:
    """Takes the weights out of a message: 0 and false are not learnt, 1 and true are."""
    is_assistant = message["role"] == "assistant"
    if "train_detail" in message or "training_detail" in message:
        raise RowError(f"{where} must be learnt whole or not at all, so train_detail is no key that is read")
    weights = {key: message.pop(key) for key in WEIGHTS if key in message}
    for key, weight in weights.items():
        if not isinstance(weight, (bool, int, float)) or weight not in (0, 1):
            raise RowError(f"{where}.{key} must be 0 or 1, or false or true, but is {shown(weight)}")
        if weight and not is_assistant:
            raise RowError(f"{where}.{key} is {weight}, but only messages of the assistant are learnt")
    return is_assistant and all(weights.values())


def _must_answer(message: Message, where: str) -> None:
    said = [message[key] for key in ANSWERS if key in message]
    if not said:
        raise RowError(f"{where}.content must be a text, but is None, and there are no tool_calls to learn")
    if not any(text.strip() if isinstance(text, str) else text for text in said):
        raise RowError(f"{where}.content must not be empty, since it is to be learnt")


def _content(value: Any, where: str) -> str:
    """The text of a message; one that is given in parts is joined, since templates for text take no parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise RowError(f"{where} must be a text, but is {shown(value)}")
    texts = []
    for number, part in enumerate(value):
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise RowError(f"{where}[{number}] must be text, which is all that is learnt, but is {shown(part)}")
    return "".join(texts)


def _calls(value: Any, where: str) -> list[Mapping[str, Any]]:
    """Calls of tools, with their arguments as objects, as most templates take them."""
    calls = parsed(value)
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise RowError(f"{where} must be a list of calls, but is {shown(value)}")
    return [_call(call) for call in calls]


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    call = dict(call)
    if isinstance(call.get("function"), Mapping):
        call["function"] = _call(call["function"])
    if "arguments" in call and isinstance(arguments := parsed(call["arguments"]), Mapping):
        call["arguments"] = arguments
    return call
