"""The earlier study that teaches a sweep's sampler, ``hydra.sweeper.warm_start``: where it is, and whether it fits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict

from lowrung.config import grammar
from lowrung.engine import hydra_job
from lowrung.errors import UsageError
from lowrung.store import addresses
from lowrung.store.layout import StudyFolder
from lowrung.sweeps.searched import Search
from lowrung.sweeps.settings import Settings

if TYPE_CHECKING:
    from lowrung.search.warm_start import Earlier


def load(settings: Settings, search: Search, master: DictConfig) -> "Earlier | None":
    """The earlier study; None where none is named.

    Args:
        settings: the fields of ``hydra.sweeper``.
        search: what is searched.
        master: the sweep's composed config.

    Raises:
        UsageError: when there is no such study, or it cannot teach the sampler.
    """
    from lowrung.search import warm_start

    name = settings.warm_start
    if name is None:
        return None
    draws = any(space.intervals for space in search.all_spaces)
    problems = list(warm_start.sampler_problems(settings.sampler, draws=draws))
    if master.study is not None and str(master.study) == grammar.literal(name):
        problems.append(f"{warm_start.NAME} must be another study, but {name} is this one, which learns from its own.")
    if problems:
        raise UsageError(problems)
    found = _find(name, settings, master)
    if problems := found.problems({**search.described(), **settings.goal}):
        raise UsageError(problems)
    return found


def _find(name: str, settings: Settings, master: DictConfig) -> "Earlier":
    from lowrung.search import warm_start

    if settings.storage:
        return warm_start.Earlier.load(name, addresses.absolute(settings.storage, Path.cwd()))
    folder = _folder(name, master)
    others = [found.parent.name for found in folder.path.parent.glob("*/study.db")]
    if not folder.database.is_file():
        raise UsageError(warm_start.absent(name, others))
    return warm_start.Earlier.load(name, f"sqlite:///{folder.database}", others)


def _folder(name: str, master: DictConfig) -> StudyFolder:
    """Where this sweep would be if it had the other's name."""
    node: Any = master._get_node("study")
    own = node._value()  # unresolved
    with open_dict(master):
        master.study = grammar.literal(name)
        try:
            return StudyFolder(Path(hydra_job.sweep_folder(master)).absolute())
        finally:
            master.study = own
