"""What was written in a row and is not in the text that the chat template made of it."""

import html
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lowrung.finetune.data.bad_rows import RowError
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.messages import ANSWERS, REASONING, Message
from lowrung.finetune.data.template import Template, Turn

Piece = tuple[str, str]
"""Whose text it is, in words (``content``), and the text."""


def refuse_lost_answers(example: Example, turns: Sequence[Turn], template: Template) -> None:
    """Compares each answer that is learnt with its own part of the text.

    Raises:
        RowError: when some of it is not there.
    """
    for turn in turns:
        lost = _of_answer(example, turn, template)
        if lost:
            named = " and ".join(f"{what} {_short(text)!r}" for what, text in lost[:2])
            raise RowError(
                f"the chat template leaves out of messages[{turn.position}], which is to be learnt, {named}"
                f" ({_remedy(example, turn, template)})"
            )


def of_context(example: Example, written: str) -> list[str]:
    """What is lost of the rest: tools, questions, answers that are not learnt, and further keys; in words, each once.

    Args:
        example: what was written.
        written: the text up to its last answer that is learnt.
    """
    last = example.learnt[-1]
    # Answers come first: of two equal texts the one that is there is theirs, as was checked.
    positions = sorted(range(last + 1), key=lambda position: position not in example.learnt)
    pieces = [piece for position in positions for piece in _pieces(example, position)]
    tools = [("tools", text) for tool in example.tools or () for text in _of_tool(tool)]
    found = {what: None for what, _ in _lost([*pieces, *tools], written) if what not in ANSWERS}
    if last + 1 < len(example.messages):
        found["messages after the last answer that is learnt"] = None
    return list(found)


def keeping(example: Example, template: Template, lost: str) -> str | None:
    """The setting with which the template writes what it leaves out now, in the user's spelling; None if it has none.

    Args:
        example: some of which is lost.
        template: as it is used.
        lost: what is lost, as `of_context` names it.
    """

    def is_kept(other: Template) -> bool:
        written = other.text(example.messages[: example.learnt[-1] + 1], example)
        return lost not in of_context(example, written)

    return _setting(template, is_kept)


# -- answers -----------------------------------------------------------------------------------------------------------


def _of_answer(example: Example, turn: Turn, template: Template) -> list[Piece]:
    """What is lost of an answer; lines of its content count each by itself, for templates that write between them."""
    message = example.messages[turn.position]
    pieces = [piece for key in ANSWERS if key in message for piece in _of_key(message, key)]
    if not _lost(pieces, turn.answered[_shared(turn.asked, turn.answered) :]):
        return []
    # What opens an answer may hold its beginning too: `<think>`.
    before = template.text(example.messages[: turn.position], example) if turn.position else ""
    own = turn.answered[_shared(before, turn.answered) :]
    if not _lost(pieces, own):
        return []
    return _lost([(what, line) for what, text in pieces for line in text.splitlines()], own)


def _remedy(example: Example, turn: Turn, template: Template) -> str:
    def is_kept(other: Template) -> bool:
        again = next(again for again in other.turns(example) if again.position == turn.position)
        return not _of_answer(example, again, other)

    setting = _setting(template, is_kept)
    return f"{setting} keeps it" if setting else "take it out of the row, or use a template that writes it"


def _setting(template: Template, is_kept: Any) -> str | None:
    """The variable of the template that is on or off with which something is kept; each is tried."""
    for name, value in itertools.product(template.variable_names(), (True, False)):
        try:
            if is_kept(template.with_variable(name, value)):
                return f"data.chat_template_kwargs={{{name}:{json.dumps(value)}}}"
        except RowError:
            continue
    return None


# -- what is written ---------------------------------------------------------------------------------------------------


def _pieces(example: Example, position: int) -> Iterator[Piece]:
    """All texts of a message, by whose they are."""
    message = example.messages[position]
    of = f" of {message['role']} messages{' that are not learnt' if message['role'] == 'assistant' else ''}"
    of = "" if position in example.learnt else of
    for key in message:
        if key != "role":
            yield from ((f"{what}{of}", text) for what, text in _of_key(message, key))


def _of_key(message: Message, key: str) -> Iterator[Piece]:
    """The texts of one key; of a call its tool, its id, and the names and values of its arguments."""
    value = message[key]
    if key in REASONING:  # these are taken for one another, and so the first of them stands for all
        if key == next(name for name in REASONING if name in message):
            yield key, str(value)
    elif key in ("tool_calls", "function_call"):
        for call in value if isinstance(value, list) else [value]:
            yield from _of_call(key, call)
    else:
        yield from ((key, text) for text in _texts(value, with_names=False))


def _of_call(key: str, call: Any) -> Iterator[Piece]:
    if not isinstance(call, Mapping):
        yield key, str(call)
        return
    function = call["function"] if isinstance(call.get("function"), Mapping) else call
    if "name" in function:
        yield key, str(function["name"])
    yield from ((key, text) for text in _texts(function.get("arguments"), with_names=True))


def _of_tool(tool: Any) -> Iterator[str]:
    """Names and descriptions of a tool and of its parameters: what every way of writing tools has."""
    if isinstance(tool, list):
        for item in tool:
            yield from _of_tool(item)
    elif isinstance(tool, Mapping):
        for name, value in tool.items():
            if name in ("name", "description") and isinstance(value, str):
                yield value
            elif name == "properties" and isinstance(value, Mapping):
                yield from map(str, value)
            yield from _of_tool(value)


def _texts(value: Any, *, with_names: bool) -> Iterator[str]:
    """The texts and numbers of a value, and the names of its fields where they count."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if with_names:
                yield str(name)
            yield from _texts(item, with_names=with_names)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, with_names=with_names)
    elif value is not None:
        yield value if isinstance(value, str) else json.dumps(value)


# -- comparing ---------------------------------------------------------------------------------------------------------


def _lost(pieces: Iterable[Piece], written: str) -> list[Piece]:
    """The pieces that are not in a text. White space does not count, nor how JSON, HTML or Python escape characters.

    Each piece takes its own part of the text, the longest first: an answer "5" is not found in the question's "15".
    """
    rest = _squashed(written)
    if "&" in rest:
        rest = f"{rest}\0{html.unescape(rest)}"
    lost = []
    for what, text in sorted(pieces, key=lambda piece: len(piece[1]), reverse=True):
        for way in _ways(text):
            if (start := rest.find(way)) >= 0:
                rest = f"{rest[:start]}\0{rest[start + len(way) :]}"
                break
        else:
            lost.append((what, text))
    return lost


def _ways(text: str) -> Iterator[str]:
    """How a text may be written: as it is, or with escapes."""
    yield _squashed(text)
    for escaped in (json.dumps(text, ensure_ascii=False), json.dumps(text), repr(text)):
        yield _squashed(escaped[1:-1])
    if text.capitalize() in ("True", "False", "Null"):
        yield {"true": "True", "false": "False", "null": "None"}.get(text, text)


def _squashed(text: str) -> str:
    return "".join(text.split())


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    if other.startswith(one):
        return len(one)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:37] + "..."
