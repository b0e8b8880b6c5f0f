"""bitsandbytes, put off: not the fork server imports it, but each job that is forked from it.

bitsandbytes asks each GPU for its compute capability when it is imported. That initialises CUDA, whatever
`lowrung.engine.start.CUDA_CHECK` says, and CUDA does not survive a fork; and PEFT imports bitsandbytes wherever it is
installed. So a module takes its place that libraries import and keep, and a job makes the real one of it. They never
see it missing, which they would remember.
"""

import contextlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from lowrung.config.signature import BITS


class _PutOff(ModuleType):
    """bitsandbytes before it is imported."""

    was_asked_for = False
    """Whether something was looked up in it before `load`."""

    def __getattr__(self, name: str) -> Any:
        """Imports it after all: what a library asks for while it is imported itself cannot wait."""
        _PutOff.was_asked_for = True
        _fill(self)
        return getattr(self, name)


def put_off() -> None:
    """Has the next ``import bitsandbytes`` import nothing yet."""
    spec = importlib.util.find_spec(BITS) if BITS not in sys.modules else None
    if spec is None:
        return
    module = importlib.util.module_from_spec(spec)
    del module.__path__  # else a module of it could be imported before itself
    module.__class__ = _PutOff
    sys.modules[BITS] = module


def is_waiting() -> bool:
    """Whether bitsandbytes was put off, and has not been imported since."""
    return isinstance(sys.modules.get(BITS), _PutOff)


def is_asked_for() -> bool:
    """Whether it had to be imported before `load`: then no job may be forked from this process."""
    return _PutOff.was_asked_for


def load() -> None:
    """Imports what was put off, in a job. An import that fails is tried again, and says why, where it is needed."""
    if not is_waiting():
        return
    if "torch" not in sys.modules:  # nor has a library that was preloaded taken it
        del sys.modules[BITS]
        return
    with contextlib.suppress(Exception):
        _fill(sys.modules[BITS])


def _fill(module: ModuleType) -> None:
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    assert spec.submodule_search_locations is not None
    module.__class__ = ModuleType
    module.__path__ = spec.submodule_search_locations
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(BITS, None)
        raise
