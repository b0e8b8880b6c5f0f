"""One message as people write it."""

import pytest

from lowrung.finetune.data import messages
from lowrung.finetune.data.bad_rows import RowError

CALL = {"id": "c1", "type": "function", "function": {"name": "stock", "arguments": {"item": 3}}}


def read(**message):
    return messages.read(message, "messages[1]")


def answer(**keys):
    return read(role="assistant", **{"content": "b", **keys})


@pytest.mark.parametrize(
    ("keys", "is_learnt"),
    [
        ({}, True),
        ({"weight": 1}, True),
        ({"weight": 0}, False),
        ({"weight": 0.0}, False),
        ({"weight": None}, True),
        ({"train": True}, True),
        ({"train": False}, False),
        ({"training": False}, False),
        ({"weight": 1, "train": False}, False),
    ],
)
def test_a_weight_says_whether_an_answer_is_learnt(keys, is_learnt):
    assert answer(**keys) == ({"role": "assistant", "content": "b"}, is_learnt)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"weight": 0.5}, "messages[1].weight must be 0 or 1, or false or true, but is 0.5 (float)"),
        ({"weight": float("nan")}, "weight must be 0 or 1"),
        ({"weight": 2}, "weight must be 0 or 1"),
        ({"train": "false"}, "train must be 0 or 1, or false or true, but is 'false' (str)"),
        ({"role": "user", "train": True}, "train is True, but only messages of the assistant are learnt"),
        ({"train_detail": [{"begin_offset": 0}]}, "must be learnt whole or not at all"),
    ],
)
def test_other_weights_are_refused_by_name(message, reason):
    with pytest.raises(RowError) as caught:
        answer(**message) if "role" not in message else read(content="a", **message)
    assert reason in str(caught.value)


def test_an_answer_without_weight_may_be_empty():
    assert answer(content="", weight=0) == ({"role": "assistant", "content": ""}, False)


def test_all_keys_are_kept_but_those_without_value():
    message, is_learnt = answer(content=None, tool_calls=[CALL], refusal=None, mood="glad")
    assert message == {"role": "assistant", "tool_calls": [CALL], "mood": "glad"}
    assert is_learnt


@pytest.mark.parametrize("arguments", [{"item": 3}, '{"item": 3}'])
def test_arguments_are_read_from_json_texts_too(arguments):
    call = {**CALL, "function": {"name": "stock", "arguments": arguments}}
    message, _ = answer(content=None, tool_calls=[call])
    assert message["tool_calls"] == [CALL]


def test_arguments_that_are_no_json_stay_as_they_are():
    message, _ = answer(tool_calls=[{"function": {"name": "run", "arguments": "ls -l"}}])
    assert message["tool_calls"][0]["function"]["arguments"] == "ls -l"


def test_parts_of_text_are_one_text():
    assert answer(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"])[0]["content"] == "abc"


@pytest.mark.parametrize(
    ("sender", "role"), [("human", "user"), ("gpt", "assistant"), ("system", "system"), ("observation", "tool")]
)
def test_sharegpt_names_roles_otherwise(sender, role):
    assert messages.read({"from": sender, "value": "a"}, "here")[0] == {"role": role, "content": "a"}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "assistant"}, "messages[1].content must be a text, but is None, and there are no tool_calls"),
        ({"role": "assistant", "content": " \n"}, "messages[1].content must not be empty"),
        ({"role": "assistant", "content": 5}, "messages[1].content must be a text, but is 5 (int)"),
        ({"role": "assistant", "content": [{"type": "image"}]}, "content[0] must be text, which is all that is learnt"),
        ({"role": "user"}, "messages[1] must be {role, content}"),
        ({"content": "a"}, "messages[1].role must be one of system, developer, user"),
        ({"role": ["user"], "content": "a"}, "messages[1].role must be one of"),
        ({"from": ["gpt"], "value": "a"}, "messages[1].role must be one of"),
        ({"role": "Assistant", "content": "a"}, "but is 'Assistant' (str)"),
        ({"role": "assistant", "tool_calls": "stock"}, "tool_calls must be a list of calls, but is 'stock' (str)"),
        ({"role": "assistant", "tool_calls": [3]}, "tool_calls must be a list of calls"),
    ],
)
def test_what_is_no_message_is_refused(message, reason):
    with pytest.raises(RowError) as caught:
        read(**message)
    assert reason in str(caught.value)
