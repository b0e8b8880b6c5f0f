"""One example of a task, and how a row of a table becomes one."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lowrung.config.schema import SourceConf
from lowrung.finetune.data import messages
from lowrung.finetune.data.bad_rows import RowError
from lowrung.finetune.data.messages import Message, shown

TEMPLATE_COLUMN = "chat_template_kwargs"
"""The column of a row's own variables of the chat template, as TRL calls it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """A dialogue, or a text that is learnt whole. Examples are equal if the same is written in them.

    Attributes:
        messages: the dialogue, each message with all its keys; empty for a text.
        learnt: the positions of the messages that are learnt, all of them the assistant's.
        text: the text; empty for a dialogue.
        is_chat: whether it was given as messages, so that only a chat template can write it down.
        tools: the tools that may be called, as JSON schemas.
        chat_template_kwargs: variables of the chat template for this example alone.
        where: where it was written: ``data.path=answers.jsonl, line 7``; empty for an example that was made by code.
    """

    messages: tuple[Message, ...] = ()
    learnt: tuple[int, ...] = ()
    text: str = ""
    is_chat: bool = False
    tools: Sequence[Mapping[str, Any]] | None = None
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: str = ""

    @classmethod
    def pair(cls, prompt: str, completion: str, where: str = "") -> "Example":
        """A question and its answer, of which the answer is learnt."""
        asked, answered = {"role": "user", "content": prompt}, {"role": "assistant", "content": completion}
        return cls((asked, answered), learnt=(1,), where=where)

    @functools.cached_property
    def key(self) -> bytes:
        """All that is written in it, the same in every process.

        Raises:
            RowError: when some of it is neither text nor JSON.
        """
        held = [self.messages, self.learnt, self.text, self.is_chat, self.tools, self.chat_template_kwargs]
        try:
            return json.dumps(held, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half, before = error.object[error.start], error.object[max(0, error.start - 20) : error.start]
            raise RowError(
                f"it must be text, but has half of a character, \\u{ord(half):04x}, after {before!r}. Take that out"
            ) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise RowError(f"it must hold texts and JSON alone, but does not: {error}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Example) and self.key == other.key

    def __hash__(self) -> int:
        return hash((self.text, *(message.get("content") for message in self.messages)))

    @property
    def shown(self) -> str:
        """Where it was written; else the beginning of its text."""
        if self.where:
            return self.where
        text = " ".join((self.text or str(self.messages[0].get("content"))).split())
        return repr(text if len(text) <= 50 else text[:47] + "...")


def form_of(names: Sequence[str], source: SourceConf) -> str | None:
    """Which of the three forms a row with columns of these names has, or None."""
    if source.messages_column in names:
        return "messages"
    if source.prompt_column in names and source.completion_column in names:
        return "prompt and completion"
    return "text" if source.text_column in names else None


def columns(form: str, source: SourceConf) -> tuple[str, ...]:
    """The columns that are read of rows of this form."""
    beside = (source.tools_column, TEMPLATE_COLUMN)
    if form == "messages":
        return (source.messages_column, *beside)
    if form == "text":
        return (source.text_column,)
    return (source.prompt_column, source.completion_column, *beside)


def from_row(row: Mapping[str, Any], source: SourceConf, form: str, where: str = "") -> Example:
    """Reads one row.

    Args:
        row: its cells by column.
        source: names the columns.
        form: which form all rows have.
        where: the setting and the line, for messages.

    Raises:
        RowError: when the row is no example of this form.
    """
    if form == "messages":
        chat, learnt = _messages(_cell(row, source.messages_column), source.messages_column)
        example = Example(chat, learnt, is_chat=True, where=where, **_beside(row, source))
    elif form == "text":
        example = Example(text=_text(_cell(row, source.text_column), source.text_column), where=where)
    else:
        example = _pair(row, source, where)
    if not example.text and not example.learnt:
        column = source.messages_column if form == "messages" else source.completion_column
        raise RowError(f"{column} must hold an assistant's message to learn, but has none")
    _ = example.key  # which refuses what is no text
    return example


def _pair(row: Mapping[str, Any], source: SourceConf, where: str) -> Example:
    prompt, completion = _cell(row, source.prompt_column), _cell(row, source.completion_column)
    beside = _beside(row, source)
    if not isinstance(prompt, list) and not isinstance(completion, list):
        texts = _text(prompt, source.prompt_column), _text(completion, source.completion_column)
        return dataclasses.replace(Example.pair(*texts, where), **beside)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise RowError(f"{source.prompt_column} and {source.completion_column} must both be texts or both be messages")
    asked, _ = _messages(prompt, source.prompt_column)
    answered, learnt = _messages(completion, source.completion_column)
    if any(message["role"] != "assistant" for message in answered):
        raise RowError(f"{source.completion_column} must be the assistant's, but holds a message of another role")
    positions = tuple(len(asked) + position for position in learnt)
    return Example(asked + answered, positions, is_chat=True, where=where, **beside)


def _beside(row: Mapping[str, Any], source: SourceConf) -> dict[str, Any]:
    """What the chat template is given beside the messages: tools, and variables of its own."""
    found: dict[str, Any] = {}
    for field, column, kind in (
        ("tools", source.tools_column, list),
        ("chat_template_kwargs", TEMPLATE_COLUMN, Mapping),
    ):
        value = row.get(column)
        if value is None or value == "":
            continue
        held = messages.parsed(value)
        if not isinstance(held, kind) or (kind is list and not all(isinstance(tool, Mapping) for tool in held)):
            expected = "a list of JSON schemas" if kind is list else "an object"
            raise RowError(f"{column} must be {expected}, or such a JSON text, but is {shown(value)}")
        found[field] = held
    return {name: value for name, value in found.items() if value}


def _cell(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise RowError(f"it has no {column!r}")
    return row[column]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{column} must be a text, but is {shown(value)}")
    if not value.strip():
        raise RowError(f"{column} must not be empty")
    return value


def _messages(value: Any, column: str) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """The messages, which may be a JSON text, and the positions of those that may be learnt."""
    held = messages.parsed(value)
    if not isinstance(held, list):
        raise RowError(f"{column} must be a list of {{role, content}}, but is {shown(value)}")
    if not held:
        raise RowError(f"{column} must not be empty")
    read = [messages.read(message, f"{column}[{number}]") for number, message in enumerate(held)]
    return tuple(message for message, _ in read), tuple(n for n, (_, is_learnt) in enumerate(read) if is_learnt)
