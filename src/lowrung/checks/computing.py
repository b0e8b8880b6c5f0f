"""The processor, memory and GPUs. torch is asked in a child process: a driver that hangs must not hang this one."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowrung.checks.finding import Check, Finding, note, ok, wrong
from lowrung.config import machine, signature
from lowrung.engine import gpus
from lowrung.engine.cores import thread_variables, usable_cores

SECONDS = 90.0
"""The longest that torch may take: its import takes 2 to 15 s, a driver that hangs for ever."""

HANGS = "If `nvidia-smi` hangs too, it is the driver. CUDA_VISIBLE_DEVICES= goes without."
"""What to do where asking torch has no end."""

LITTLE = 4 * 2**30
"""Bytes of memory: the 135M model's runs take 2 GB."""

_ASK = (
    "import json, torch; c = torch.cuda; n = c.device_count() if c.is_available() else 0; "
    "print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda, 'kernels': "
    "torch.backends.cpu.get_cpu_capability(), 'gpus': [[c.get_device_name(i), "
    "c.get_device_properties(i).total_memory] for i in range(n)], 'bf16': bool(n) and c.is_bf16_supported()}))"
)

_ASK_BITSANDBYTES = (
    "import json, bitsandbytes; from bitsandbytes import cextension as c; "
    "is_missing = isinstance(c.lib, c.ErrorHandlerMockBNBNativeLibrary) and c.BNB_BACKEND not in ('CPU', 'XPU'); "
    "print(json.dumps({'version': bitsandbytes.__version__, 'problem': c.lib.error_msg if is_missing else None}))"
)
"""Where its own library cannot be loaded, bitsandbytes logs that, and puts an object with the reason in its place.
On a CPU it does without."""


def checks(_: Path) -> list[Check]:
    """Processor, threads, memory, torch and GPUs."""
    hangs = "The system does not say what it has; see whether `nvidia-smi` and `cat /proc/cpuinfo` hang."
    made = [
        Check("processor", _machine, 10.0, hangs),
        Check("torch", lambda: torch(_ASK, SECONDS), SECONDS + 10, HANGS),
    ]
    if importlib.util.find_spec("bitsandbytes"):
        made += [
            Check("bitsandbytes", lambda: bitsandbytes(_ASK_BITSANDBYTES, SECONDS), SECONDS + 10, HANGS),
        ]
    return made


def _machine() -> Iterator[Finding]:
    yield ok(
        "processor", f"{machine.processor()}; {', '.join(machine.instructions()) or 'instruction sets not listed'}"
    )
    yield from _threads()
    yield from _memory()
    yield from (wrong("GPUs", problem, "See docs/gpus.md.") for problem in gpus.problems())


def _threads() -> Iterator[Finding]:
    cores, quota = usable_cores(), _quota()
    if quota is not None and quota < cores:
        yield note(
            "cores",
            f"{cores} can be used, but the control group allows the time of {quota:g}",
            f"Run `taskset -c 0-{max(1, int(quota)) - 1} ...`: threads that wait for their turn slow all others.",
        )
    else:
        yield ok("cores", f"{cores} of {os.cpu_count()} can be used")
    for name in (*thread_variables(1), "OMP_WAIT_POLICY"):
        value = os.environ.get(name, "")
        if name == "OMP_WAIT_POLICY" and value.lower() == "passive":
            yield note(name, "passive: a step takes 30% longer", "Unset it; lowrung has idle threads sleep early.")
        elif value.isdecimal() and int(value) > cores:
            yield note(name, f"{value}, of {cores} cores", "Unset it: lowrung gives each run its share of the cores.")


def _quota() -> float | None:
    """How many cores' time the control group allows; None where it does not limit."""
    try:
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) / int(period)


def _memory() -> Iterator[Finding]:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return
    found = f"{free / 2**30:.1f} GiB are free"
    few = "Run fewer at once (hydra.launcher.workers), or a smaller model or batch."
    yield note("memory", found, few) if free < LITTLE else ok("memory", found)


def torch(code: str, seconds: float) -> Iterator[Finding]:
    """Asks torch what it finds.

    Args:
        code: what the child runs; it prints JSON.
        seconds: the longest that it may take.
    """
    found = _asked("torch", code, seconds, "Install it anew; see https://pytorch.org/get-started.")
    if isinstance(found, Finding):
        yield found
        return
    built = f"built for CUDA {found['cuda']}" if found["cuda"] else "built for CPUs"
    yield ok("torch", f"{found['torch']}, {built}; its kernels here are those for {found['kernels']}")
    for name, size in found["gpus"]:
        yield ok("GPU", f"{name}, {size / 2**30:.0f} GiB, bfloat16 {'yes' if found['bf16'] else 'no'}")
    if not found["gpus"]:
        yield from _without_gpus(found["cuda"])


def bitsandbytes(code: str, seconds: float) -> Iterator[Finding]:
    """Asks bitsandbytes whether it can be used; see `torch`."""
    remedy = "Install it anew, or do without model.quantization and the optimisers of 8 bits."
    found = _asked("bitsandbytes", code, seconds, remedy)
    if isinstance(found, Finding):
        yield found
    elif found["problem"]:
        reason = str(found["problem"]).strip().splitlines()[0]
        yield wrong("bitsandbytes", f"{found['version']}, but its own library does not load ({reason})", remedy)
    else:
        yield ok("bitsandbytes", f"{found['version']} can be used")


def _asked(name: str, code: str, seconds: float, remedy: str) -> dict[str, Any] | Finding:
    """What a child process prints as JSON, or what is wrong with the package that it imports."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return wrong(name, f"did not answer in {seconds:g} s", HANGS)
    if done.returncode:
        last = (done.stderr.strip() or f"ended with code {done.returncode}").splitlines()[-1]
        return wrong(name, f"cannot be imported ({last})", remedy)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _without_gpus(cuda: str | None) -> Iterator[Finding]:
    if signature.device_kind() != "cuda":
        yield note("GPU", "none: runs use the CPU")
    elif cuda is None:
        yield wrong("GPU", "there is one, but torch was built for CPUs", "Install torch with CUDA; see docs/gpus.md.")
    else:
        yield wrong("GPU", "there is one, but torch cannot use it", "See whether `nvidia-smi` works, and docs/gpus.md.")
