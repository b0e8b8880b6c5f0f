"""What a study was made for, and how another search differs from it."""

from collections.abc import Iterator, Mapping
from typing import Any


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], inputs_before: Mapping[str, str], inputs: Mapping[str, str]
) -> Iterator[str]:
    """The differences between two searches, each in words.

    Args:
        before: what the study was made for: texts by kind and name.
        now: the same of the present search.
        inputs_before: where its models and data were from.
        inputs: where they are from now.
    """
    searched = {*before.get("axes", ()), *now.get("axes", ())}
    unset = {"settings": "unset"}
    known = [kind for kind in now if kind in before]
    named = 0
    for kind in known:
        old, new = before[kind] or {}, now[kind] or {}
        for key in {**old, **new}:
            if old.get(key) == new.get(key) or (kind == "settings" and key in searched):
                continue
            if kind == "content":
                yield from _new_content(key, inputs_before, inputs)
            elif kind != "points" or named == 0:
                yield _change(key, old, new, unset.get(kind, "not searched"))
            named += 1
    if len(known) < len(now) and not named:
        yield "an earlier version of lowrung made it, which did not note its settings"


def _change(key: str, old: Mapping[str, str], new: Mapping[str, str], unset: str) -> str:
    if key not in new:
        return f"{key} was {old[key]}, and is {unset} now"
    if key not in old:
        return f"{key} is {new[key]} now, and was {unset}"
    return f"{key} was {old[key]}, and is {new[key]} now"


def _new_content(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Why the content of models or data is another: what was set, or else the files."""
    changed = [key for key in {**before, **now} if key.startswith(f"{name}.") and before.get(key) != now.get(key)]
    yield from (_change(key, before, now, "unset") for key in changed)
    if not changed:
        yield f"the content of its {name} has changed"
