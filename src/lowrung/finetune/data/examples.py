"""One example of a task, and how a row of a table becomes one."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lowrung.config.schema import SourceConf

Message = tuple[str, str]
"""A role and its text."""

ROLES = ("system", "user", "assistant", "tool")


class RowError(Exception):
    """A row is not an example. The message gives the reason, without naming the row."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A dialogue, or a text that is learnt whole.

    Attributes:
        messages: the dialogue; empty for a text.
        learnt_from: the assistant's messages from this position on are learnt.
        text: the text; empty for a dialogue.
        is_chat: whether it was given as messages, so that only a chat template can write it down.
    """

    messages: tuple[Message, ...] = ()
    learnt_from: int = 0
    text: str = ""
    is_chat: bool = False

    @classmethod
    def pair(cls, prompt: str, completion: str) -> "Example":
        """A question and its answer, of which the answer is learnt."""
        return cls((("user", prompt), ("assistant", completion)), learnt_from=1)


def form_of(names: Sequence[str], source: SourceConf) -> str | None:
    """Which of the three forms a row with columns of these names has, or None."""
    if source.messages_column in names:
        return "messages"
    if source.prompt_column in names and source.completion_column in names:
        return "prompt and completion"
    return "text" if source.text_column in names else None


def from_row(row: Mapping[str, Any], source: SourceConf, form: str) -> Example:
    """Reads one row.

    Args:
        row: its cells by column.
        source: names the columns.
        form: which form all rows have.

    Raises:
        RowError: when the row is no example of this form.
    """
    if form == "messages":
        messages = _messages(_cell(row, source.messages_column), source.messages_column)
        if not any(role == "assistant" for role, _ in messages):
            raise RowError(f"{source.messages_column} must hold an assistant's message to learn, but has none")
        return Example(messages, is_chat=True)
    if form == "text":
        return Example(text=_text(_cell(row, source.text_column), source.text_column))
    return _pair(_cell(row, source.prompt_column), _cell(row, source.completion_column), source)


def _pair(prompt: Any, completion: Any, source: SourceConf) -> Example:
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return Example.pair(_text(prompt, source.prompt_column), _text(completion, source.completion_column))
    if isinstance(prompt, str) or isinstance(completion, str):
        raise RowError(f"{source.prompt_column} and {source.completion_column} must both be texts or both be messages")
    asked = _messages(prompt, source.prompt_column)
    answered = _messages(completion, source.completion_column)
    if any(role != "assistant" for role, _ in answered):
        raise RowError(f"{source.completion_column} must be the assistant's, but holds a message of another role")
    return Example(asked + answered, learnt_from=len(asked), is_chat=True)


def _cell(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise RowError(f"it has no {column!r}")
    return row[column]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{column} must be a text, but is {_shown(value)}")
    if not value.strip():
        raise RowError(f"{column} must not be empty")
    return value


def _messages(value: Any, column: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise RowError(f"{column} must be a list of {{role, content}}, but is {_shown(value)}")
    if not value:
        raise RowError(f"{column} must not be empty")
    return tuple(_message(message, f"{column}[{number}]") for number, message in enumerate(value))


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping) or not {"role", "content"} <= value.keys():
        raise RowError(f"{where} must be {{role, content}}, but is {_shown(value)}")
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise RowError(f"{where}.role must be one of {', '.join(ROLES)}, but is {_shown(role)}")
    if role == "assistant":
        return role, _text(content, f"{where}.content")
    if not isinstance(content, str):
        raise RowError(f"{where}.content must be a text, but is {_shown(content)}")
    return role, content


def _shown(value: Any) -> str:
    """A value with its type, short enough for a message."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
