"""Makes a recorded run again, in a store of its own, so that nothing of the recorded one is read but its config."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowrung.config import rank_rules
from lowrung.config.schema import Config, TrackConf
from lowrung.engine import cores, gpus
from lowrung.engine.interrupt import StopSignals
from lowrung.errors import UsageError
from lowrung.finetune.found import Preflight
from lowrung.reproduction.findings import Change
from lowrung.reproduction.recorded import Recorded
from lowrung.runs import inputs, single
from lowrung.store import fingerprints, layout
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A recorded run whose model and data were found to be what they were.

    Attributes:
        recorded: the run.
        config: the recorded one, with the other store, and tracked nowhere.
        preflight: what was found of model and data.
    """

    recorded: Recorded
    config: Config
    preflight: Preflight

    @property
    def folder(self) -> RunFolder:
        """Where the run is made again."""
        signature = inputs.run_signature(self.config, self.preflight, self.recorded.threads)
        return layout.run_folder(Path(self.config.store), signature)


def prepare(recorded: Recorded, store: Path, changed: Sequence[Change]) -> Prepared:
    """Checks that model and data are what the run was trained on.

    Args:
        recorded: the run.
        store: where it is to be made again.
        changed: what else is other than it was, for messages.

    Raises:
        UsageError: when they are gone, or are others.
    """
    config = dataclasses.replace(recorded.config, store=str(store), track=TrackConf(kind="none"))
    if found := gpus.problems():
        raise UsageError(found)
    if found := list(rank_rules.gpu_problems(config, len(gpus.visible()), "CUDA_VISIBLE_DEVICES=0,1")):
        raise UsageError(found)
    single.see_its_gpus(config)
    with cores.environment(cores.thread_variables(recorded.threads)):
        preflight = inputs.preflight(config)
    problems = list(preflight.problems) or list(_other_inputs(recorded, preflight, changed))
    if problems:
        raise UsageError([f"{recorded.name} cannot be made again:", *problems, *_elsewhere(recorded)])
    return Prepared(recorded, inputs.pinned(config, preflight), preflight)


def train(prepared: Prepared) -> Outcome:
    """Trains the run again, with the recorded number of threads.

    Raises:
        Interrupted: when Ctrl-C or SIGTERM stopped it.
    """
    threads = prepared.recorded.threads
    with StopSignals() as signals, cores.environment(cores.thread_variables(threads)):
        outcome = single.train(prepared.config, prepared.folder, prepared.preflight, threads, signals)
    if outcome.status is Status.CANCELLED:
        raise signals.interruption
    return outcome


def _other_inputs(recorded: Recorded, preflight: Preflight, changed: Sequence[Change]) -> Iterator[str]:
    then = recorded.environment
    found = {
        "model": (then["model_fingerprint"], preflight.model_fingerprint),
        "data": (then["data_fingerprint"], preflight.data_fingerprint),
    }
    for what, (was, is_now) in found.items():
        if was != is_now:
            yield f"The {what} must be what the run was trained on, with the fingerprint {was}, but has {is_now} now."
    if any(was != is_now for was, is_now in found.values()):
        files = list(_changed_files(recorded))
        yield from files
        causes = "; ".join(str(change) for change in changed if change.counts)
        if not files:
            yield (
                "No file that the run read is known to have changed."
                + (f" What else is other than it was: {causes}." if causes else "")
            )


def _changed_files(recorded: Recorded) -> Iterator[str]:
    """The files that the run read and that are others now; not known for runs of older versions."""
    for name, digest in recorded.environment.get("files", {}).items():
        try:
            now = fingerprints.sha256([Path(name)], None)[name]
        except OSError as error:
            yield f"{name} was read by the run, and cannot be read now ({error.strerror})."
            continue
        if now != digest:
            yield f"{name} has changed since: its SHA-256 was {digest[:16]} and is {now[:16]}. Put it back as it was."


def _elsewhere(recorded: Recorded) -> list[str]:
    """Where relative paths were taken from, where that is another folder."""
    then, now = recorded.environment.get("folder"), Path.cwd()
    if then is None or Path(then) == now:
        return []
    return [f"The run was started in {then}; a relative path in its config is taken from {now} now."]
