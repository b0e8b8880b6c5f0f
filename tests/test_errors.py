import pytest

from lowrung import errors


@pytest.mark.parametrize(
    ("error", "is_such"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
    ],
)
def test_what_says_that_memory_is_used_up(error, is_such):
    assert errors.is_out_of_memory(error) is is_such
