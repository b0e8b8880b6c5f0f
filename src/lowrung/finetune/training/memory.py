"""How much memory a run took, and what gives it back."""

import ctypes
import gc
import resource
import sys

import torch


def peak_bytes() -> int:
    """The most memory that this process has held: on the GPU where there is one, else resident in main memory.

    The latter counts the pages of mapped files too: weights that are only read lie there, and processes share them.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes


def free() -> None:
    """Gives back what no object holds any more, the GPU's memory too.

    glibc keeps what was freed for itself: 0.9 GB after SmolLM2-135M was trained. Other C libraries have no such call.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
