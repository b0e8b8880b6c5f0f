"""Whether a registered version, as MLflow loads it in a fresh process, says what was registered says."""

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lowrung.errors import LowrungError

if TYPE_CHECKING:
    from lowrung.adapters.answers import Asked
    from lowrung.config.schema import ToleranceConf
    from lowrung.track.registry import Registry

NEW_TOKENS = 32
"""The most tokens of an answer."""

FIRST = "the first token of each answer"
"""Where logits are compared."""


def verify(registry: "Registry", one: "Asked", limits: Mapping[str, Mapping[str, float]], model: str) -> str:
    """Holds a version's answers and logits to those of what was registered; of an adapter, to the base's as well.

    Args:
        registry: the version's.
        one: what was registered.
        limits: the gate's tolerances, by precision.
        model: the version's address, ``models:/NAME/VERSION``.

    Returns:
        what was found, in words.

    Raises:
        LowrungError: when they differ, or the adapter changes less than loading does.
        TrackError: when MLflow cannot load it.
    """
    from lowrung.adapters.answers import Asked, prompt_rows, replies
    from lowrung.adapters.export import TEXTS

    asked = [one, *([Asked(one.base, format=one.format)] if one.adapter else [])]
    expected, *others = replies(asked, TEXTS, new_tokens=NEW_TOKENS)
    given = registry.ask(model, TEXTS, new_tokens=NEW_TOKENS, rows=prompt_rows(one, TEXTS))
    answers = zip(TEXTS, given.answers, expected.answers, strict=True)
    wrong = [text for text, answer, right in answers if answer != right]
    if wrong:
        raise _refusal(
            f"{model} must answer as what was registered, but answers {len(wrong)} of {len(TEXTS)} prompts otherwise,"
            f" the first being {wrong[0]!r}."
        )
    difference = expected.distance(given.logits)
    broken = difference.violations(_tolerance(one, limits), FIRST)
    for base in others:
        broken += difference.control_failures(expected.distance(base.logits).mean_kl, FIRST)
    if broken:
        raise _refusal(
            f"{model} must say what was registered says, but only its answers are the same: {'; '.join(broken)}."
        )
    alone = [sum(map(operator.eq, base.answers, expected.answers)) for base in others]
    control = f" (the base alone: {alone[0]})" if alone else ""
    return (
        f"loaded by MLflow in a fresh process, it gives the same {len(TEXTS)} of {len(TEXTS)} answers{control}, and"
        f" max |Δlogit| is {difference.max_abs_logit_diff:.2g}"
    )


def _tolerance(one: "Asked", limits: Mapping[str, Mapping[str, float]]) -> "ToleranceConf":
    """What the gate allows between an adapter and the same reloaded, in the precision in which it computes."""
    from lowrung.config.schema import ToleranceConf
    from lowrung.finetune.models import pretrained

    dtype = pretrained.dtype_for(one.base.dtype, pretrained.device())
    return ToleranceConf(**limits[str(dtype).removeprefix("torch.")])


def _refusal(what: str) -> LowrungError:
    return LowrungError(f"{what} It was deleted, and no alias was moved.")
