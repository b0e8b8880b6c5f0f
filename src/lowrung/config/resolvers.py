"""What a config can compute from other settings: OmegaConf's resolvers of lowrung's own."""

from omegaconf import OmegaConf


def register() -> None:
    """Makes ``twice`` and ``first`` known to OmegaConf. Calling it again does no harm."""
    OmegaConf.register_new_resolver("twice", lambda value: 2 * value, replace=True)
    OmegaConf.register_new_resolver("first", lambda *values: next((v for v in values if v), None), replace=True)
