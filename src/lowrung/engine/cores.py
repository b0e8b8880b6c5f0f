"""The processor's cores: how many this process may use, and the variables that give a job its share of them."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping


def usable_cores() -> int:
    """How many CPU cores this process may use.

    Python 3.13 has a function for it. Before that, Linux lists the cores that a process may use. macOS restricts no
    process, so all cores count there.
    """
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_variables(threads: int) -> dict[str, str]:
    """The environment variables that hold numeric libraries to this many threads; the last is read on macOS."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return {name: str(threads) for name in names}


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables while the block runs."""
    with environment_kept(variables):
        os.environ.update(variables)
        yield


@contextlib.contextmanager
def environment_kept(names: Iterable[str]) -> Iterator[None]:
    """Puts environment variables back as they were before the block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
