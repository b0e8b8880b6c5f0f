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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n no such table. \nSELECT 1"), "no such table"),
        (ValueError(""), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (KeyError("a"), "'a'"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert errors.first_line(error) == line
