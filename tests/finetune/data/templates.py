"""Chat templates for tests, as small as what they show."""

CHATML = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
GREETED = CHATML
ALTERNATING = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('roles must alternate') }}{% endif %}" + CHATML
)
DATED = "{{ 'Today is ' + strftime_now('%d %b %Y, %-H:%M') + ' (%d)\n' }}" + CHATML
SHOUTED = CHATML.replace("m.content", "m.content | upper")

THINKS = (
    "{% for m in messages %}{{ m.role + ': ' }}"
    "{% if m.reasoning_content is defined and (loop.last or keep_thinking) %}"
    "{{ '<think>\n' + m.reasoning_content + '\n</think>\n' }}{% endif %}{{ m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""Keeps the reasoning of the last message alone, or of all with ``keep_thinking``."""

STRIPS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content.split('</think>')[-1].strip() + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: <think>\n' }}{% endif %}"
)
"""Leaves only the answer, and opens answers with a thought, as DeepSeek-R1's does."""

TOOLS = (
    "{% if tools %}{{ 'tools: ' + (tools | tojson) + '\n' }}{% endif %}"
    "{% for m in messages %}{{ m.role + ': ' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + (c.function | tojson) }}{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
STRICT_TOOLS = TOOLS.replace("(c.function | tojson)", "c.function.name + ' ' + c.function.arguments")
"""Takes the arguments of a call as JSON texts, as DeepSeek's does."""


def calling(arguments: object, content: str | None = None) -> tuple[dict[str, object], ...]:
    """A question, and a call of a tool as the answer."""
    call = {"id": "c1", "type": "function", "function": {"name": "stock", "arguments": arguments}}
    asked: dict[str, object] = {"role": "user", "content": "How many?"}
    answered: dict[str, object] = {"role": "assistant", "tool_calls": [call]}
    return asked, answered | ({} if content is None else {"content": content})
