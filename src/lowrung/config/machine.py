"""The machine that computes, as far as it can change a result's last bits: processor, GPUs, variables of libraries."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INSTRUCTIONS = (
    *("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_tile"),
    *("amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme"),
)
"""The instruction sets by which torch, oneDNN, MKL and bitsandbytes choose their kernels, in Linux's words."""

VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA"),
    *("DNNL_DEFAULT_FPMATH_MODE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DYNAMIC", "MKL_DEBUG_CPU_TYPE"),
    *(
        "CUBLAS_WORKSPACE_CONFIG",
        "NVIDIA_TF32_OVERRIDE",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "TORCH_CUDNN_V8_API_DISABLED",
    ),
)
"""Environment variables that give a library another kernel, and so other roundings."""


def described() -> dict[str, Any]:
    """Processor, instruction sets, GPUs with their driver, and the variables that are set; no name of the machine."""
    return {
        "processor": processor(),
        "instructions": instructions(),
        "gpus": list(gpus()),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def processor() -> str:
    """The processor's model in words."""
    return _from_cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Those of `INSTRUCTIONS` that the processor has; none where the system does not list them, as on macOS."""
    known = set((_from_cpuinfo("flags") or _from_cpuinfo("Features") or "").split())
    return [name for name in INSTRUCTIONS if name in known]


def gpus() -> Iterator[str]:
    """The models of NVIDIA's GPUs and their driver, asked without touching CUDA."""
    driver = Path("/proc/driver/nvidia")
    for file in sorted([*driver.glob("version"), *driver.glob("gpus/*/information")]):
        yield from (line for line in file.read_text().splitlines() if line.startswith(("Model", "NVRM")))


def _from_cpuinfo(name: str) -> str | None:
    """What Linux says of the first core."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)
