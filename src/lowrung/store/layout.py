"""Where everything lies: the only module that knows the names of files and folders."""

import dataclasses
import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED = _PACKAGE / "shipped"  # setup.py makes it in a wheel, and nowhere else

CHECKOUT = None if _SHIPPED.is_dir() else _PACKAGE.parents[1]
"""The checkout that this package is used from; None where it was installed from a wheel."""

ROOT = CHECKOUT or _SHIPPED
"""The folder with conf/ and sweeps/: the checkout, or what the wheel brought of it."""


CHECKPOINT_MARK = "complete.json"
"""Written last in a checkpoint, with the name of the run's folder. The trainer's own files do not show whether one is
complete: without ``optimizer.pt`` or ``rng_state.pth`` it resumes silently, with other results."""


def cache_folder() -> Path:
    """Where embedded models are kept once built: ``$LOWRUNG_CACHE``, or ``lowrung`` in the user's cache folder."""
    explicit = os.environ.get("LOWRUNG_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(explicit).absolute() if explicit else Path(base) / "lowrung"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """``store/<signature>/``: one run's inputs, mailbox and results."""

    path: Path

    @property
    def outcome(self) -> Path:
        """The record of how the run ended; absent until it has."""
        return self.path / "outcome.json"

    @property
    def config(self) -> Path:
        """The resolved config that the run was made from."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, git commit, machine and fingerprints."""
        return self.path / "environment.json"

    @property
    def reports(self) -> Path:
        """The run's mailbox: one JSON report a line, appended as training goes on."""
        return self.path / "reports.jsonl"

    @property
    def warnings(self) -> Path:
        """What libraries warned of, in JSON lines."""
        return self.path / "warnings.jsonl"

    @property
    def stop(self) -> Path:
        """The coordinator's answer: when this file exists, the run ends after its step, as what the file says."""
        return self.path / "stop"

    @property
    def lock(self) -> Path:
        """Held by the process that works in this folder."""
        return self.path / ".lock"

    @property
    def claim(self) -> Path:
        """Which job the folder was given to; only that one may leave a result."""
        return self.path / "claim"

    @property
    def token(self) -> Path:
        """What a coordinator wrote for the node of a job, which shows that both see the same storage."""
        return self.path / ".token"

    @property
    def node(self) -> Path:
        """What a node of a cluster answered: that it can run the job."""
        return self.path / ".node"

    @property
    def slurm_job(self) -> Path:
        """Which of SLURM's jobs was submitted for this folder; absent where none is under way."""
        return self.path / "slurm.json"

    @property
    def submitted(self) -> Path:
        """Held by the coordinator that has submitted a job of SLURM's for this folder."""
        return self.path / ".submitted"

    @property
    def log(self) -> Path:
        """Everything that the run's process printed."""
        return self.path / "log.txt"

    @property
    def adapter(self) -> Path:
        """The trained adapter with its tokenizer."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The trained model with its tokenizer, where all weights were trained (``lora=full``)."""
        return self.path / "model"

    @property
    def held_out(self) -> Path:
        """What the run scored on each held-out example; see `lowrung.store.held_out.HeldOut`."""
        return self.path / "held_out.parquet"

    @property
    def checkpoints(self) -> Path:
        """Where a run that was interrupted goes on from; deleted when it is complete."""
        return self.path / "checkpoints"

    @property
    def parts(self) -> Path:
        """When each process that worked on the run began, and how long it took."""
        return self.path / "parts.json"

    @property
    def earlier_reports(self) -> Path:
        """What earlier parts of an unfinished run reported, one JSON report a line."""
        return self.path / "earlier.jsonl"

    @property
    def tracked(self) -> Path:
        """Which of the tracker's runs an unfinished run belongs to."""
        return self.path / "tracked.json"

    @property
    def untracked(self) -> Path:
        """What a single run's tracker was not given; absent where that is nothing."""
        return self.path / "untracked.json"

    @property
    def system(self) -> Path:
        """How busy the machine was while the run trained, one JSON report a line."""
        return self.path / "system.jsonl"

    @property
    def merged(self) -> Path:
        """The merged model with its tokenizer, where ``verify.keep_merged`` asked for it."""
        return self.path / "merged"

    @property
    def scratch(self) -> Path:
        """Working files; deleted when the run ends."""
        return self.path / "scratch"


@dataclasses.dataclass(frozen=True)
class JobFolder:
    """``multirun/<study>/<n>/`` or ``outputs/<date>/<time>/``: Hydra's own files, and the way to the run."""

    path: Path

    @property
    def run(self) -> Path:
        """A link to the run's folder in the store."""
        return self.path / "run"


@dataclasses.dataclass(frozen=True)
class StudyFolder:
    """``multirun/<study>/``: one sweep."""

    path: Path

    @property
    def database(self) -> Path:
        """Optuna's SQLite storage."""
        return self.path / "study.db"

    @property
    def lock(self) -> Path:
        """Held by the study's one coordinator."""
        return self.path / ".lock"

    @property
    def leaderboard(self) -> Path:
        """The sweep's results as JSON, one row a trial."""
        return self.path / "leaderboard.json"

    @property
    def verdict(self) -> Path:
        """What the leaderboard says, as JSON."""
        return self.path / "verdict.json"

    @property
    def config(self) -> Path:
        """The sweep's config, which its coordinator writes first."""
        return self.path / "multirun.yaml"

    @property
    def report(self) -> Path:
        """What `lowrung report` writes, unless told otherwise."""
        return self.path / "report"

    @property
    def plots(self) -> Path:
        """The main plots, for the sweep's run in the tracker."""
        return self.path / "plots"

    @property
    def untracked(self) -> Path:
        """What the sweep's tracker was not given; absent where that is nothing."""
        return self.path / "untracked.json"

    @property
    def preflight(self) -> Path:
        """Working folder of the preflight of model and data, before the first run."""
        return self.path / "preflight"

    def job(self, number: int) -> JobFolder:
        """The folder of trial ``number``."""
        return JobFolder(self.path / str(number))


def run_folder(store: Path, signature: str) -> RunFolder:
    """The folder of the run with this signature."""
    return RunFolder(store / signature)


def tokens_folder(store: Path, key: str) -> Path:
    """Where a task's examples lie as tokens, for all runs that share them."""
    return store / ".tokens" / key


def base_folder(store: Path, key: str) -> Path:
    """Where lies what was computed of a base model and its examples, for all runs that share them."""
    return store / ".base" / key


def base_scores(folder: Path, size: int) -> Path:
    """A base's scores of the held-out rows in batches of this size, in its `base_folder`."""
    return folder / f"held_out-{size}.arrays"


def slurm_folder(folder: Path) -> Path:
    """Where SLURM's jobs for folders beside this one find what to do, and leave their answers."""
    return folder.parent / ".slurm"


def source_record(key: str) -> Path:
    """The record of a digest of lowrung's own code."""
    return cache_folder() / "source" / f"{key}.json"


def sizes_record(key: str) -> Path:
    """The record of what was counted of a model with an adapter."""
    return cache_folder() / "sizes" / f"{key}.json"


def preflight_record(store: Path, key: str) -> Path:
    """The record of a preflight that found no problem."""
    return store / ".preflight" / f"{key}.json"


def measured_costs(store: Path) -> Path:
    """What runs of a store took of memory and time, one JSON line a run; see `lowrung.costs.history`."""
    return store / ".costs" / "measured.jsonl"


def fingerprints_folder(store: Path) -> Path:
    """Where digests of models' and data's files are kept."""
    return store / ".fingerprints"


def points_to(link: Path, target: Path) -> bool:
    """Whether ``link`` is a link to ``target``."""
    return link.is_symlink() and (link.parent.resolve() / link.readlink()).resolve() == target.resolve()


def point_to(link: Path, target: Path) -> None:
    """Makes ``link`` a relative symbolic link to ``target``, in place of an older one.

    The folders of both are resolved first: ``..`` in a link leads up from where the link really is, and its folder may
    be reached by a link itself, such as macOS's ``/tmp``. A target that is a link stays one: `lowrung clean` deletes
    nothing behind it.
    """
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target.parent.resolve() / target.name, link.parent.resolve()))
