"""What is other than when a run was recorded: versions, code, processor, and what else can change last bits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lowrung.config import machine, signature
from lowrung.engine.cores import usable_cores
from lowrung.reproduction.findings import Change
from lowrung.reproduction.recorded import Recorded

UNKNOWN = "not recorded"


def changes(recorded: Recorded) -> list[Change]:
    """All that is known to be other than it was; what counts comes first."""
    then = recorded.environment
    now = signature.environment(model_fingerprint="", data_fingerprint="", tokens="", threads=recorded.threads)
    computing = signature.used(recorded.config)
    found = [*_software(then, now, computing), *_machine(recorded, now), *_training(recorded)]
    return sorted((change for change in found if change.then != change.now), key=lambda change: not change.counts)


def restoring(found: Sequence[Change], recorded: Recorded) -> str | None:
    """What to type to have the recorded versions of libraries; None where none counts that differs."""
    then = recorded.environment["versions"]
    wanted = [f"{change.what}=={then[change.what]}" for change in found if change.counts and then.get(change.what)]
    return f"pip install {' '.join(wanted)}" if wanted else None


def _software(then: Mapping[str, Any], now: Mapping[str, Any], computing: Sequence[str]) -> Iterator[Change]:
    yield Change("lowrung's code that computes", _short(then.get("source")), _short(now["source"]))
    yield Change("Python", _text(then.get("python")), now["python"])
    before = then["versions"]
    for package, version in now["versions"].items():
        yield Change(package, _text(before.get(package)), version, package in computing)
    for package in before.keys() - now["versions"].keys():
        yield Change(package, _text(before[package]), "not installed", package in computing)
    yield Change("lowrung", _text(then.get("lowrung")), now["lowrung"], counts=False)
    yield Change("commit", _text(then.get("commit")), now["commit"], counts=False)


def _machine(recorded: Recorded, now: Mapping[str, Any]) -> Iterator[Change]:
    system = _text(recorded.environment.get("platform"))
    yield Change("C library", system.partition("-with-")[2], now["platform"].partition("-with-")[2])
    yield Change("system", system, now["platform"], counts=False)
    yield Change("device", _text(recorded.environment.get("device")), now["device"])
    then, here = recorded.machine, machine.described()
    for name in ("processor", "instructions", "gpus", "variables"):
        yield Change(name, _text(then.get(name)), _text(here[name]))


def _training(recorded: Recorded) -> Iterator[Change]:
    if recorded.threads > usable_cores():
        yield Change("cores for the threads", f"{recorded.threads} or more", str(usable_cores()))
    if recorded.outcome.facts.get("is_resumed"):
        yield Change("training", "went on from a checkpoint, perhaps of another machine", "from the first step")


def _short(digest: Any) -> str:
    return _text(digest)[:12]


def _text(value: Any) -> str:
    """A recorded value in words."""
    if value is None:
        return UNKNOWN
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={each}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value) or "none"
    return str(value)
