"""lowrung: which LoRA? Sweeps of LoRA fine-tunes, verified and recorded. In Python: see docs/python.md."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowrung import library_warnings
from lowrung.version import __version__ as __version__

if TYPE_CHECKING:
    from lowrung.api import Leaderboard, RunOutcome, run, sweep
    from lowrung.commands.generate import generate
    from lowrung.commands.loading import load_adapters
    from lowrung.commands.merge import merge
    from lowrung.errors import LowrungError, RunFailed, UsageError
    from lowrung.store.outcome import Outcome

__all__ = [
    "Leaderboard",
    "LowrungError",
    "Outcome",
    "RunFailed",
    "RunOutcome",
    "UsageError",
    "generate",
    "load_adapters",
    "merge",
    "run",
    "sweep",
]

_HOMES = {
    "generate": "lowrung.commands.generate",
    "load_adapters": "lowrung.commands.loading",
    "merge": "lowrung.commands.merge",
    "LowrungError": "lowrung.errors",
    "RunFailed": "lowrung.errors",
    "UsageError": "lowrung.errors",
    "Outcome": "lowrung.store.outcome",
}

library_warnings.silence()  # here: every process of lowrung's imports this before it imports a library


def __getattr__(name: str) -> Any:
    """Imports what Python programs use only when it is asked for: the command line imports this package too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "lowrung.api")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
