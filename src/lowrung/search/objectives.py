"""The metrics that a sweep optimises or keeps within bounds, and whether every run measures them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lowrung.config import schema
from lowrung.config.limits import one_of
from lowrung.config.schema import Config

OBJECTIVES = (
    "eval/loss",
    "eval/perplexity",
    "eval/token_accuracy",
    "eval/exact_match",
    "eval/rouge1",
    "eval/rouge2",
    "eval/rougeL",
    "eval/bleu",
    "params/trainable",
    "adapter/bytes",
    "forget/loss_delta",
)
"""The metrics that a sweep can optimise, beside those of ``data.metrics`` that are functions of the user's."""


_ALWAYS = ("eval/loss", "eval/perplexity", "eval/token_accuracy", "params/trainable", "adapter/bytes")
"""Those that every run has."""

COSTS = (
    "params/trainable",
    "params/total",
    "params/rank_mean",
    "adapter/bytes",
    "time/total_seconds",
    "time/train_seconds",
    "memory/peak_bytes",
    "eval/loss",
    "eval/perplexity",
    "forget/loss_delta",
)
"""What can decide between trials that tie: metrics and measurements of which less is better."""


def preference_problems(prefer: Any) -> list[str]:
    """What is wrong with what is to decide between trials that tie."""
    if not isinstance(prefer, list | tuple) or not prefer:
        return [
            f"hydra.sweeper.prefer must be a list such as [params/trainable,adapter/bytes], but is {prefer!r}. null is"
            " [params/trainable]."
        ]
    found = [problem for name in prefer for problem in one_of("hydra.sweeper.prefer", str(name), COSTS)]
    if found and any(str(name).startswith("eval/") for name in prefer):
        found.append(
            "hydra.sweeper.prefer takes costs, of which the smallest wins. A score of which more is better is an"
            " objective: hydra.sweeper.objectives."
        )
    return found


def objective_problems(objectives: Any) -> list[str]:
    """What is wrong with what a sweep is to optimise."""
    if not isinstance(objectives, Mapping):
        return [f"hydra.sweeper.objectives must be pairs such as {{eval/loss:minimize}}, but is {objectives!r}."]
    found = [] if objectives else ["hydra.sweeper.objectives must name a metric, but is empty."]
    for name, direction in objectives.items():
        found += name_problems("hydra.sweeper.objectives", name)
        found += one_of(f"hydra.sweeper.objectives.{name}", direction, ("minimize", "maximize"))
    return found


def name_problems(setting: str, name: Any, also: Sequence[str] = ()) -> list[str]:
    """Whether a setting names a metric that a run has, or another one of those that it may name."""
    names = list(dict.fromkeys([*OBJECTIVES, *also]))
    return [] if _may_be_generated(name) else list(one_of(setting, name, names))


def _may_be_generated(name: Any) -> bool:
    """Whether this may be a metric that the user wrote: it is not close to any name that lowrung knows."""
    return str(name).startswith("eval/") and not difflib.get_close_matches(str(name), OBJECTIVES, n=1, cutoff=0.8)


def metric_problems(config: Config, goal: Mapping[str, Iterable[str]]) -> list[str]:
    """Metrics in a sweep's objectives and constraints that this config does not measure.

    Args:
        config: one of the sweep's.
        goal: the names in ``hydra.sweeper.objectives``, ``constraints`` and ``prefer``.
    """
    return [
        f"hydra.sweeper.{kind} must name metrics that every run has, but {name} is not measured, since {why}"
        for kind, metrics in goal.items()
        for name in metrics
        if (why := _why_unmeasured(config, name))
    ]


def _why_unmeasured(config: Config, name: str) -> str | None:
    """Which setting a metric needs, and the remedy; None where it is measured."""
    scored = {f"eval/{score}": None for metric in config.data.metrics for score in schema.metric_names(metric)}
    measured = (*_ALWAYS, *scored)
    if name.startswith("eval/") and name not in measured:
        return f"data.metrics is {config.data.metrics}. Add it there, or take one of {', '.join(measured)}."
    verify = config.verify
    if name.startswith("forget/") and not (verify.enabled and verify.forgetting):
        return (
            f"verify.enabled is {str(verify.enabled).lower()} and verify.forgetting {verify.forgetting}."
            " Add verify.forgetting=48, with verify=default."
        )
    return None
