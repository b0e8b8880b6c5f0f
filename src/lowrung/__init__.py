"""lowrung: which LoRA? Sweeps of LoRA fine-tunes, verified and recorded. In Python: see docs/python.md."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowrung.api import Leaderboard, RunOutcome, run, sweep
    from lowrung.errors import LowrungError, RunFailed, UsageError
    from lowrung.store.outcome import Outcome

__all__ = ["Leaderboard", "LowrungError", "Outcome", "RunFailed", "RunOutcome", "UsageError", "run", "sweep"]
__version__ = "0.1.0"

_HOMES = ("lowrung.errors", "lowrung.store.outcome", "lowrung.api")  # the lightest first


def __getattr__(name: str) -> Any:
    """Imports what Python programs use when it is asked for: the command line imports this package too, and Hydra."""
    for home in _HOMES if name in __all__ else ():
        module = import_module(home)
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
