"""A key that is given more than once: what a later override leaves of an earlier one, as Hydra has it."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override

from lowrung.config import keys


def in_force(overrides: Sequence[Override], parser: OverridesParser) -> list[Override]:
    """The overrides without those that a later one replaces; it stands in the replaced one's place.

    Hydra applies overrides one after the other. A dict is merged into what is there, and anything else replaces it. So
    only what has no effect is left out: a list of values must not stay an axis where a later value holds for all
    points. A group has one choice: the last one, a preset's before the command line's.

    Args:
        overrides: a preset's before the command line's.
        parser: Hydra's; it must know a config loader.
    """
    kept: list[Override] = []
    for override in overrides:
        same = [i for i, one in enumerate(kept) if bare_key(one) == bare_key(override) and not one.is_delete()]
        is_group = bool(same) and _is_group(override, parser)  # which costs 10 ms
        if not same or override.is_delete() or (_has_dict(override) and not is_group):
            kept.append(override)
            continue
        before = kept.pop(same[-1])
        is_moved = any(_are_related(one, override) for one in kept[same[-1] :])
        new = _as_addition(override, is_group) if _is_made_by(before, override) else override
        kept.insert(len(kept) if is_moved else same[-1], new)
    return kept


def bare_key(override: Override) -> str:
    """The key of an override, with its package and without ``+``: one setting has one key."""
    return override.get_key_element().lstrip("+~")


def _is_made_by(before: Override, override: Override) -> bool:
    """Whether a key exists by the override that is replaced alone: ``+x=1 x=2``."""
    is_added = before.is_add() or before.is_force_add()
    is_change = not (override.is_add() or override.is_force_add())
    return is_added and is_change and not keys.is_declared(override.key_or_group)


def _as_addition(override: Override, is_group: bool) -> Override:
    made: Override = OverridesParser.create(override.config_loader).parse_override(
        ("+" if is_group else "++") + (override.input_line or "")
    )
    made.config_loader = override.config_loader
    return made


def _are_related(one: Override, other: Override) -> bool:
    """Whether one key lies below the other, so that their order counts."""
    first, second = sorted((bare_key(one), bare_key(other)), key=len)
    return second.startswith(f"{first}.")


def _is_group(override: Override, parser: OverridesParser) -> bool:
    return parser.config_loader is not None and bool(parser.config_loader.get_group_options(override.key_or_group))


def _has_dict(override: Override) -> bool:
    """Whether a value, or one of several, is a dict, which is merged."""
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    return any(isinstance(one, dict) for one in values)
