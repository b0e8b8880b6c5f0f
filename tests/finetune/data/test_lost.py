"""What was written is compared with what the chat template made of it."""

import pytest

from lowrung.finetune.data import lost
from lowrung.finetune.data.bad_rows import RowError
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import Template
from tests.finetune.data.templates import CHATML, SHOUTED, STRICT_TOOLS, STRIPS, THINKS, TOOLS, calling

THOUGHT = "<think>\nI add one to 15.\n</think>\n\n16"


@pytest.fixture
def compare(tokenizer, monkeypatch):
    """The reason of a refusal, or the words of what is lost besides."""

    def compare(source, example, **variables):
        monkeypatch.setattr(tokenizer, "chat_template", source)
        template = Template(tokenizer, variables=variables)
        turns = list(template.turns(example))
        try:
            lost.refuse_lost_answers(example, turns, template)
        except RowError as error:
            return str(error)
        return lost.of_context(example, turns[-1].answered)

    return compare


def dialogue(*said, learnt=(1,), **beside):
    """Messages, given as a role and its keys; a text is the content."""
    messages = tuple({"role": role, **({"content": keys} if isinstance(keys, str) else keys)} for role, keys in said)
    return Example(messages, learnt, is_chat=True, **beside)


class TestAnswers:
    def test_what_is_written_is_not_lost(self, compare):
        assert compare(CHATML, Example.pair("15?", THOUGHT)) == []

    def test_reasoning_that_is_stripped(self, compare):
        reason = compare(STRIPS, Example.pair("What is 15 plus one?", THOUGHT))
        assert "leaves out of messages[1], which is to be learnt, content 'I add one to 15.'" in reason
        assert "take it out of the row, or use a template that writes it" in reason

    def test_an_opened_thought_is_not_lost(self, compare):
        opens = CHATML.replace("{{ 'assistant: ' }}", "{{ 'assistant: <think>\n' }}")
        assert compare(opens, Example.pair("15?", THOUGHT)) == []

    def test_reasoning_of_its_own_key(self, compare):
        example = dialogue(("user", "a"), ("assistant", {"content": "b", "reasoning_content": "since c"}))
        assert compare(THINKS, example) == []
        assert "reasoning_content 'since c'" in compare(CHATML, example)

    def test_the_setting_that_keeps_it_is_found_by_trying(self, compare):
        off = CHATML.replace("m.content", "(m.content if verbose else m.content[:3])")
        reason = compare(off, Example.pair("a", "longer than that"))
        assert "(data.chat_template_kwargs={verbose:true} keeps it)" in reason
        assert compare(off, Example.pair("a", "longer than that"), verbose=True) == []

    def test_calls_of_tools(self, compare):
        example = Example(calling({"item": 3}), (1,))
        assert compare(TOOLS, example) == []
        assert "tool_calls 'stock' and tool_calls 'item'" in compare(TOOLS.replace("m.tool_calls", "none"), example)
        names_alone = TOOLS.replace("(c.function | tojson)", "c.function.name")
        assert "which is to be learnt, tool_calls 'item' and tool_calls '3'" in compare(names_alone, example)

    def test_a_text_beside_a_call(self, compare):
        example = Example(calling({"item": 3}, "Let me see."), (1,))
        either = TOOLS.replace("(m.content or '')", "('' if m.tool_calls else m.content)")
        assert "content 'Let me see.'" in compare(either, example)
        assert compare(TOOLS, example) == []

    def test_an_old_call_of_a_function(self, compare):
        example = dialogue(
            ("user", "a"), ("assistant", {"content": "", "function_call": {"name": "f", "arguments": "{}"}})
        )
        assert "function_call 'f'" in compare(TOOLS, example)

    def test_a_short_answer_is_not_found_in_the_question(self, compare):
        only_asked = "{% for m in messages %}{{ m.content if m.role == 'user' else 'A' }}{% endfor %}"
        assert "content '5'" in compare(only_asked, Example.pair("15?", "5"))

    def test_another_case_is_another_text(self, compare):
        assert "content 'Hello'" in compare(SHOUTED, Example.pair("A", "Hello"))

    @pytest.mark.parametrize(
        "source", [TOOLS, STRICT_TOOLS, TOOLS.replace("c.function | tojson", "c.function | string")]
    )
    @pytest.mark.parametrize(
        "arguments",
        [
            {"text": 'a "quoted"\nline\\', "ünit": "kg — µ"},
            {"a": [1, 2.5, -3e-7, True, False, None], "b": {"c": {}}},
            {"html": "<b>&amp;</b>", "it's": "it's"},
            {},
        ],
        ids=["escapes", "numbers", "html", "none"],
    )
    def test_escapes_are_no_loss(self, compare, source, arguments):
        assert compare(source, Example(calling(arguments), (1,))) == []

    def test_neither_is_white_space(self, compare):
        stripped = CHATML.replace("m.content", "m.content | trim | replace('\n\n', '\n')")
        assert compare(stripped, Example.pair("a ", "  b\n\nc\n")) == []


class TestContext:
    def test_tools_that_a_template_does_not_write(self, compare):
        tools = [{"type": "function", "function": {"name": "stock", "description": "How many there are"}}]
        example = dialogue(("user", "a"), ("assistant", "b"), tools=tools)
        assert compare(CHATML, example) == ["tools"]
        assert compare(TOOLS, example) == []

    def test_keys_that_it_does_not_read(self, compare):
        example = dialogue(("user", {"content": "a", "name": "Ann"}), ("assistant", {"content": "b", "mood": "glad"}))
        assert compare(CHATML, example) == ["mood", "name of user messages"]

    def test_a_message_that_it_leaves_out(self, compare):
        no_system = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
        example = dialogue(("system", "Be brief."), ("user", "a"), ("assistant", "b"), learnt=(2,))
        assert compare(no_system, example) == ["content of system messages"]

    def test_what_follows_the_last_answer(self, compare):
        example = dialogue(("user", "a"), ("assistant", "b"), ("user", "c"))
        assert compare(CHATML, example) == ["messages after the last answer that is learnt"]

    def test_earlier_reasoning_and_the_setting_that_keeps_it(self, compare, tokenizer):
        thought = {"content": "b", "reasoning_content": "since"}
        example = dialogue(("user", "a"), ("assistant", thought), ("user", "c"), ("assistant", "d"), learnt=(3,))
        (what,) = compare(THINKS, example)
        assert what == "reasoning_content of assistant messages that are not learnt"
        setting = lost.keeping(example, Template(tokenizer), what)
        assert setting == "data.chat_template_kwargs={keep_thinking:true}"
        assert compare(THINKS, example, keep_thinking=True) == []
