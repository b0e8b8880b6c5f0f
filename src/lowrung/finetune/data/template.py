"""A tokenizer's chat template: what it writes of an example, with its clock at one day."""

import dataclasses
import datetime
import functools
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta
from transformers import PreTrainedTokenizerBase

from lowrung.config import schema
from lowrung.config.schema import DataConf
from lowrung.errors import did_you_mean
from lowrung.finetune.data.bad_rows import RowError
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.messages import Message

CLOCK = "strftime_now"
"""The function by which templates ask for the time; transformers answers with the time at which it is asked."""

_CODES = "aAbBcdDefFgGhHIjklmMpPrRsSTuUVwWxXyYzZ"
"""What may follow ``%`` in a format of the time, on Linux and macOS."""

_UNPADDED = "deHIjklmMSUVWy"
"""What may follow ``%-``, which leaves the leading zero out."""

_GIVEN = ("messages", "tools", "documents", "add_generation_prompt", CLOCK, "raise_exception", "namespace", "dict")
"""The names that transformers gives to every template, beside the special tokens."""


@dataclasses.dataclass(frozen=True)
class Format:
    """How prompts and answers become one text; the same in training, and wherever the model is asked later.

    Attributes:
        name: ``chat``, ``plain``, or ``auto`` for chat where the tokenizer has a template (``data.format``).
        date: the day at which the template's clock stands (``data.date``).
        variables: of the template (``data.chat_template_kwargs``).
    """

    name: str = "auto"
    date: str = schema.DATE
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, data: DataConf | Mapping[str, Any]) -> "Format":
        """The one of a task, or of the data of a run's config, which may be older than some settings."""
        values = data if isinstance(data, Mapping) else vars(data)
        variables = schema.pattern(values.get("chat_template_kwargs"))
        return cls(str(values["format"]), str(values.get("date", schema.DATE)), variables)

    def template(self, tokenizer: PreTrainedTokenizerBase) -> "Template | None":
        """The template that dialogues are written down by; None where they are written plainly."""
        is_chat = self.name == "chat" or (self.name == "auto" and tokenizer.chat_template is not None)
        return Template(tokenizer, self.date, self.variables) if is_chat else None


@dataclasses.dataclass(frozen=True)
class Turn:
    """An answer that is learnt, as text.

    Attributes:
        position: the message's.
        asked: what the template writes before it, up to where an answer begins.
        answered: the same with the answer, and what ends it.
    """

    position: int
    asked: str
    answered: str


@dataclasses.dataclass(frozen=True)
class Template:
    """A tokenizer's chat template, filled with messages, tools and variables.

    Attributes:
        tokenizer: the model's.
        date: the day at which its clock stands, as ISO 8601 writes it; a time may follow.
        variables: the user's, for all examples.
    """

    tokenizer: Any
    date: str = schema.DATE
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def source(self, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The template's text, in which the clock stands still; a tokenizer may have another one for tools."""
        text = str(self.tokenizer.get_chat_template(tools=tools))
        return f"{_clock(self.date)}\n{text}" if CLOCK in text else text

    def text(
        self,
        messages: Sequence[Message],
        example: Example | None = None,
        *,
        opens_answer: bool = False,
    ) -> str:
        """What the template writes.

        Args:
            messages: the dialogue; may be empty where the template allows it.
            example: gives tools, and variables of its own.
            opens_answer: write what precedes an answer too.

        Raises:
            RowError: when the template refuses the messages.
        """
        tools = example.tools if example else None
        variables = {**self.variables, **(example.chat_template_kwargs if example else {})}

        def filled(messages: Sequence[Message]) -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=tools,
                    chat_template=self.source(tools),
                    add_generation_prompt=opens_answer,
                    tokenize=False,
                    **variables,
                )
            )

        refusal = ""
        for way in (messages, *_other_ways(messages)):
            try:
                return filled(way)
            except Exception as error:  # a template is code, and raises whatever it likes
                refusal = refusal or str(error).strip() or type(error).__name__
        raise RowError(f"the chat template refuses it: {refusal}")

    def turns(self, example: Example) -> Iterator[Turn]:
        """Each answer that is learnt, with what precedes it.

        Raises:
            RowError: when the template refuses the messages.
        """
        for position in example.learnt:
            answered = self.text(example.messages[: position + 1], example)
            if position:
                asked = self.text(example.messages[:position], example, opens_answer=True)
            else:  # nothing is asked: what another greeting shares with this one precedes both
                asked = self.text([_other_than(example.messages[0])], example)
            yield Turn(position, asked, answered)

    def with_variable(self, name: str, value: Any) -> "Template":
        """The same with another value of a variable."""
        return dataclasses.replace(self, variables={**self.variables, name: value})

    def variable_names(self) -> tuple[str, ...]:
        """The variables that the template reads, beside those that it is always given."""
        text = str(self.tokenizer.get_chat_template())
        text = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", text)  # a tag of transformers' own
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)  # noqa: S701  (it is only read)
        given = {*_GIVEN, *self.tokenizer.SPECIAL_TOKENS_ATTRIBUTES, *self.tokenizer.special_tokens_map}
        return tuple(sorted(meta.find_undeclared_variables(tree) - given))

    def problems(self) -> Iterator[str]:
        """Why variables that the user gave cannot be the template's."""
        taken = inspect.signature(self.tokenizer.apply_chat_template).parameters.keys() - {"documents", "kwargs"}
        known = [*self.variable_names(), "documents"]
        for name in self.variables:
            if name in taken:
                yield f"data.chat_template_kwargs.{name} cannot be set: lowrung gives it to the template itself."
            elif name not in known:
                yield (
                    f"data.chat_template_kwargs must be variables that the chat template reads, but it does not read"
                    f" {name!r}; it reads {', '.join(known[:-1]) or 'none'}.{did_you_mean(name, known)}"
                )

    def asks_for_the_date(self, example: Example) -> bool:
        """Whether this example is written otherwise on another day."""
        other = dataclasses.replace(self, date="1987-06-05T04:32:10")
        return CLOCK in self.source(example.tools) and self.text(example.messages, example) != other.text(
            example.messages, example
        )


@functools.cache
def _clock(date: str) -> str:
    """The template's clock as a macro, which goes before the one that transformers gives.

    A macro, since transformers passes nothing that can be called on to a template. The line's end after it belongs to
    the macro's tag, so the text that follows is written as it was.
    """
    day = datetime.datetime.fromisoformat(date)
    codes = [*_CODES, *(f"-{code}" for code in _UNPADDED)]
    replaced = "".join(f".replace('%{code}', {day.strftime(f'%{code}')!r})" for code in codes)
    return f"{{% macro {CLOCK}(format) %}}{{{{ (format | string){replaced} }}}}{{% endmacro %}}"


def _other_ways(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The same messages as few templates expect them, where calls of tools are among them."""
    if any(message.get("tool_calls") for message in messages):
        as_texts = [_with_json_arguments(message) for message in messages]
        yield as_texts
        for way in (messages, as_texts):
            yield [{"content": "", **message} for message in way]


def _with_json_arguments(message: Message) -> Message:
    """The message with its calls' arguments as JSON texts: what OpenAI writes, and a few templates expect."""

    def written(call: Mapping[str, Any]) -> dict[str, Any]:
        call = dict(call)
        if isinstance(call.get("function"), Mapping):
            call["function"] = written(call["function"])
        if not isinstance(call.get("arguments"), (str, type(None))):
            call["arguments"] = json.dumps(call["arguments"], ensure_ascii=False)
        return call

    calls = message.get("tool_calls")
    return {**message, "tool_calls": [written(call) for call in calls]} if calls else message


def _other_than(message: Message) -> Message:
    """A message that begins with another character."""
    begins = str(message.get("content") or "")[:1]
    return {"role": message["role"], "content": "y" if begins == "x" else "x"}
