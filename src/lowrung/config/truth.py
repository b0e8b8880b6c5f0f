"""True or false: OmegaConf takes every number for one of them, so that ``dry_run=2`` would be a dry run."""

from typing import Any

from omegaconf import BooleanNode, DictConfig, OmegaConf, ValidationError

WORDS = ("true", "false", "yes", "no", "on", "off", "y", "n")
"""What YAML reads as true or false, in any case."""


class Truth(BooleanNode):
    """A setting that is true or false, or one of `WORDS`, and no number."""

    def validate_and_convert(self, value: Any) -> Any:
        """See OmegaConf's `ValueNode`."""
        if not (value is None or isinstance(value, bool) or (isinstance(value, str) and value.lower() in WORDS)):
            raise ValidationError("Value '$VALUE' is not a valid bool (type $VALUE_TYPE)")
        return super().validate_and_convert(value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Truth":
        """A copy of this class; OmegaConf's own would be one of the class above."""
        copied = Truth()
        self._deepcopy_impl(copied, memo)
        return copied


def structured(kind: Any) -> DictConfig:
    """A dataclass as OmegaConf's typed node, in which each truth value is a `Truth`."""
    node: DictConfig = OmegaConf.structured(kind)
    _settle(node)
    return node


def _settle(node: DictConfig) -> None:
    for name in list(node):
        held = node._get_node(name)
        if isinstance(held, DictConfig):
            _settle(held)
        elif isinstance(held, BooleanNode):
            node[name] = Truth(held._value(), is_optional=held._is_optional())
