"""What a chat template is given, and what it writes."""

import datetime

import pytest

from lowrung.finetune.data.bad_rows import RowError
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import Format, Template
from tests.finetune.data.templates import ALTERNATING, CHATML, DATED, GREETED, STRICT_TOOLS, TOOLS, calling

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def filled(tokenizer, monkeypatch):
    """A tokenizer's template of this text."""

    def filled(source, **changed):
        monkeypatch.setattr(tokenizer, "chat_template", source)
        return Template(tokenizer, **changed)

    return filled


class TestClock:
    def test_it_stands_at_the_day_that_is_given(self, filled):
        template = filled(DATED, date="2024-02-09T08:05")
        assert template.text(HI).startswith("Today is 09 Feb 2024, 8:05 (%d)\nuser: Hi")

    @pytest.mark.parametrize("code", ["%d %b %Y", "%Y-%m-%d", "%H:%M:%S", "%A, %-d %B", "%j", "%y%m%d", "%I %p", "%c"])
    def test_it_writes_a_day_as_python_does(self, filled, code):
        template = filled(f"{{{{ strftime_now('{code}') }}}}", date="2024-02-09T08:05:03")
        assert template.text(HI) == datetime.datetime(2024, 2, 9, 8, 5, 3).strftime(code)

    def test_nothing_else_of_the_text_changes(self, filled):
        asks = "{% if false %}{{ strftime_now('%d') }}{% endif %}"
        for source in (f"\n  {CHATML}\n", f"  {{% if true %}}\n{CHATML}{{% endif %}}"):
            plain = filled(source).text(HI)
            assert filled(source + asks).text(HI) == plain

    @pytest.mark.parametrize(
        "source",
        [
            "{% if strftime_now is defined %}{% set d = strftime_now('%Y') %}{% endif %}{{ d }}",
            "{% macro head() %}{{ strftime_now('%Y') }}{% endmacro %}{{ head() }}",
            "{% set format = '%' ~ 'Y' %}{{ strftime_now(format) }}",
            "{% for m in messages %}{{ strftime_now('%Y') }}{% endfor %}",
        ],
        ids=["as Llama asks", "in a macro", "by a variable", "in a loop"],
    )
    def test_it_stands_wherever_a_template_asks(self, filled, source):
        assert filled(source, date="1999-12-31").text(HI) == "1999"

    @pytest.mark.slow
    def test_whether_an_example_depends_on_it_is_tried(self, filled):
        example = Example.pair("Hi", "Hello")
        assert filled(DATED).asks_for_the_date(example)
        assert not filled("{% if tools %}{{ strftime_now('%d') }}{% endif %}" + CHATML).asks_for_the_date(example)


class TestVariables:
    def test_they_reach_the_template(self, filled):
        source = "{{ 'on' if thinking else 'off' }}"
        assert filled(source).text(HI) == "off"
        assert filled(source, variables={"thinking": True}).text(HI) == "on"
        row = Example.pair("a", "b")
        own = Example(row.messages, row.learnt, chat_template_kwargs={"thinking": False})
        assert filled(source, variables={"thinking": True}).text(HI, own) == "off"

    def test_those_that_it_reads_are_known(self, filled):
        source = (
            "{% if not day is defined %}{% set day = 1 %}{% endif %}{% generation %}{{ thinking }}{% endgeneration %}"
        )
        template = filled(source + DATED + "{{ bos_token }}{% for m in messages %}{{ loop.index }}{% endfor %}")
        assert template.variable_names() == ("day", "thinking")

    def test_others_are_refused_with_what_was_meant(self, filled):
        given = {"thinkin": True, "tools": [], "documents": []}
        other, taken = filled("{{ thinking }}", variables=given).problems()
        assert "it does not read 'thinkin'; it reads thinking. Did you mean thinking?" in other
        assert taken == "data.chat_template_kwargs.tools cannot be set: lowrung gives it to the template itself."

    def test_without_a_template_there_are_none(self, without_template):
        assert Format(variables={"thinking": True}).template(without_template) is None


class TestTools:
    def test_calls_and_tools_are_written(self, filled):
        written = filled(TOOLS).text(calling({"item": 3}), Example(tools=[{"name": "stock"}]))
        called = '<call>{"name": "stock", "arguments": {"item": 3}}'
        assert written == f'tools: [{{"name": "stock"}}]\nuser: How many?\nassistant: {called}\n'

    def test_a_template_that_takes_arguments_as_json_gets_them_so(self, filled):
        assert '<call>stock {"item": 3}' in filled(STRICT_TOOLS).text(calling({"item": 3}))

    def test_one_for_tools_is_taken_where_there_are_tools(self, filled):
        template = filled({"default": CHATML, "tool_use": "with tools"})
        assert template.text(HI, Example(tools=[{"name": "stock"}])) == "with tools"
        assert template.text(HI) == "user: Hi\n"


def test_whatever_a_template_raises_is_a_bad_row(filled):
    for source in (
        "{{ raise_exception('No system') }}",
        "{{ 1 / 0 }}",
        "{{ messages[7].content + 'x' }}",
        "{{ 'a' + 1 }}",
    ):
        with pytest.raises(RowError, match="the chat template refuses it: "):
            filled(source).text(HI)


class TestGreeting:
    """A chat that begins with the assistant."""

    def test_it_is_learnt_where_the_template_allows_it(self, filled):
        first, second = filled(GREETED).turns(Example(greeted(), (0, 2)))
        assert (first.asked, first.answered) == ("assistant: x\n", "assistant: Welcome.\n")
        assert second.answered.startswith(first.answered)

    def test_a_template_that_does_not_allow_it_is_quoted(self, filled):
        with pytest.raises(RowError, match="refuses it: roles must alternate"):
            list(filled(ALTERNATING).turns(Example(greeted(), (0, 2))))


def greeted():
    said = (("assistant", "Welcome."), ("user", "Lamps?"), ("assistant", "Yes."))
    return tuple({"role": role, "content": content} for role, content in said)
