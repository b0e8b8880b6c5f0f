"""What a sweep is to do: its space, its grid, its settings, and what the preflight found."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lowrung.config import grammar, rank_rules, signature
from lowrung.config.schema import Config
from lowrung.costs.prediction import Prediction
from lowrung.engine import hydra_job
from lowrung.engine.assumed import MACHINE
from lowrung.engine.base import Engine
from lowrung.errors import UsageError
from lowrung.finetune.found import Preflight
from lowrung.report.tables import counted
from lowrung.runs import inputs, planned
from lowrung.runs.folder import notes
from lowrung.search.pruning import Schedule
from lowrung.store import addresses, disk
from lowrung.store.layout import StudyFolder
from lowrung.sweeps import answer, folders, identity, preflight
from lowrung.sweeps.composer import Composer
from lowrung.sweeps.identity import Purpose
from lowrung.sweeps.points import GridPoint
from lowrung.sweeps.searched import Search
from lowrung.sweeps.settings import Settings
from lowrung.sweeps.stage import BEST, TIES, Stage
from lowrung.sweeps.stage_trials import StageTrials, total
from lowrung.track import recording


def is_elsewhere(launcher: Mapping[str, Any]) -> bool:
    """Whether runs compute on nodes that this process knows nothing of.

    Args:
        launcher: the fields of ``hydra.launcher``.
    """
    kind = str(launcher.get("_target_", ""))
    is_cluster = kind.endswith("SlurmLauncher") or (
        kind.endswith("RayLauncher") and launcher.get("address") is not None
    )
    return is_cluster and MACHINE.get() is None


def require_a_use_of_gpus(points: Sequence[GridPoint], per_trial: float) -> None:
    """Refuses several GPUs for a model that lies on one: SFTTrainer would use the others for DataParallel, and raise.

    Raises:
        UsageError: when a point has no use for its GPUs, or other ranks than GPUs.
    """
    configs = [config for point in points for config in point.configs]
    seen = per_trial if signature.device_kind() == "cuda" else 0  # of the jobs: a login node may have none
    how = "hydra.launcher.gpus_per_trial=2"
    problems = [problem for config in configs for problem in rank_rules.gpu_problems(config, seen, how)]
    alone = [config for config in configs if config.train.parallel == "none"]
    if per_trial > 1 and any(config.model.device_map != "auto" for config in alone):
        problems.append(
            f"hydra.launcher.gpus_per_trial={per_trial:g} needs a model that is spread over them, but model.device_map"
            " is null. Add model.device_map=auto, or train on all of them at once with train.parallel=ddp."
        )
    if problems:
        raise UsageError(list(dict.fromkeys(problems)))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep that was checked, and has everything that it needs to start.

    Attributes:
        study: the study's name.
        folder: the study's.
        search: what is searched, by stages.
        points: of each stage, by its name: those of the first stage, and of the others all that they may have. Their
            spaces name the study.
        settings: the fields of ``hydra.sweeper``.
        config: of the first point, for what is the same in all.
        preflights: what was found of each model and data; see `Plan.preflight`.
        purpose: what the trials share; see `lowrung.sweeps.identity`.
        inputs: where models and data are from.
        gpus: of each trial, where there are any.
        is_elsewhere: whether runs compute on nodes of a cluster; see `is_elsewhere`.
    """

    study: str
    folder: StudyFolder
    search: Search
    points: Mapping[str, Sequence[GridPoint]]
    settings: Settings
    config: Config
    preflights: Mapping[str, Preflight]
    purpose: Purpose
    inputs: Mapping[str, str]
    gpus: float = 1
    is_elsewhere: bool = False

    @classmethod
    def make(
        cls,
        composer: Composer,
        search: Search,
        points: Mapping[str, Sequence[GridPoint]],
        settings: Settings,
        engine: Engine,
    ) -> "Plan":
        """Names the study, and checks its models and data.

        Raises:
            UsageError: with every problem of the jobs' folders, or else of the preflight.
        """
        every = [point for each in points.values() for point in each]
        config, master = every[0].config, composer.master
        with open_dict(master):
            master.track = recording.settled(config.track)
        configs = [config for point in every for config in point.configs]
        ends = [*configs, *(point.at_high_ends for point in every)]
        # The name follows from what the preflight finds. Until then: a name that the same command gives again, so that
        # what a killed preflight has left is found and deleted.
        purpose = identity.purpose(ends, (), search, settings)
        given = config.study or f".{_task(master)}-{identity.digest(purpose, settings)}"
        folder = _folder(master, given)
        if problems := folders.Jobs(composer, folder).problems(_named(_of_all_stages(search, points), given)):
            raise UsageError(problems)
        known = {preflight.key(config) for config in configs}
        checked = [end for end in ends if preflight.key(end) in known]
        preflights = preflight.check_all(engine, checked, folder, weights=not settings.dry_run)
        for note in [*notes(config, list(preflights.values())), *answer.badly_put(ends, preflights)]:
            print(f"note: {note}")
        purpose = identity.purpose(ends, preflights.values(), search, settings)
        name = config.study or f"{_task(master)}-{identity.digest(purpose, settings)}"
        folder = _folder(master, name)
        if problems := list(folders.study_problems(folder, grammar.literal(name))):
            raise UsageError(problems)
        named = {stage: _named(each, name) for stage, each in points.items()}
        launcher = master.hydra.launcher
        where = launcher.get("gpus_per_trial", 1), is_elsewhere(launcher)
        return cls(name, folder, search, named, settings, config, preflights, purpose, identity.inputs(ends), *where)

    @property
    def at_most(self) -> int:
        """Trials in total; fewer where fewer than may be start a later stage, or where an earlier one had the same."""
        return sum(map(self.at_most_of, self.search.stages))

    def total(self, begun: Mapping[str, StageTrials]) -> int:
        """Trials in total, as far as it is known now that these stages have begun."""
        known = sum(stage.n_trials - stage.shared for stage in begun.values())
        return known + sum(self.at_most_of(stage) for stage in self.search.stages if stage.name not in begun)

    def runs_left(self, begun: Mapping[str, StageTrials]) -> int:
        """Runs of all trials that have not ended, as far as it is known now that these stages have begun."""
        later = [stage for stage in self.search.stages if stage.name not in begun]
        return sum(stage.runs_left for stage in begun.values()) + sum(map(self.runs_of, later))

    def runs_of(self, stage: Stage) -> int:
        """Runs of a stage that has not begun, or how many there may be."""
        return self.at_most_of(stage) * max(len(point.seeds) for point in self.points[stage.name])

    def at_most_of(self, stage: Stage) -> int:
        """Trials of a stage, or how many there may be."""
        if not stage.of:
            return _n_trials(stage, self.points[stage.name])
        own, before = self.search.own[stage.name], self.at_most_of(self.search.stage(stage.of))
        starts = min(stage.start, before) if isinstance(stage.start, int) else 1 if stage.start == BEST else before
        n_points = starts * sum(len(space.grid()) for space in own)
        return total(stage, n_points, is_open=any(space.intervals for space in own))

    @property
    def is_known(self) -> bool:
        """Whether there are as many trials as may be; a stage that starts from all that tie may have fewer."""
        return all(stage.start != TIES for stage in self.search.stages)

    @property
    def counted(self) -> str:
        """How many trials there are, in words."""
        return f"{'' if self.is_known else 'at most '}{counted(self.at_most, 'trial')}"

    @property
    def over_seeds(self) -> dict[str, str]:
        """The metrics that are not the mean over a trial's seeds, each with what they are."""
        how = self.settings.over_seeds
        return dict.fromkeys(self.settings.directions, how) if self.search.seeds > 1 and how != "mean" else {}

    @property
    def storage(self) -> str:
        """The address of the study's database."""
        return addresses.absolute(self.settings.storage or f"sqlite:///{self.folder.database}", Path.cwd())

    def predict(self, config: Config, threads: int) -> Prediction | None:
        """What a run with this config will take; see `lowrung.runs.planned.predict`."""
        config = inputs.with_ranks(config, self.gpus)
        return planned.predict(config, self.preflight(config), threads, is_elsewhere=self.is_elsewhere)

    def preflight(self, config: Config) -> Preflight:
        """What was found for this config's model and data.

        Raises:
            UsageError: when nothing was, since they follow a value that was drawn.
        """
        key = preflight.key(config)
        if key not in self.preflights:
            raise UsageError(
                "model and data must not follow from an interval, but what is read differs between two of its values."
                " Models and data are checked before the first run: give a list of values instead."
            )
        return self.preflights[key]


def schedules(points: Sequence[GridPoint]) -> list[Schedule]:
    """When the runs of these points are evaluated."""
    return [
        Schedule(train.eval_steps, train.max_steps or sys.maxsize, train.batch_size * train.gradient_accumulation_steps)
        for train in (config.train for point in points for config in point.configs)
    ]


def _n_trials(stage: Stage, points: Sequence[GridPoint]) -> int:
    return total(stage, len(points), is_open=any(point.is_open for point in points))


def _of_all_stages(search: Search, points: Mapping[str, Sequence[GridPoint]]) -> list[GridPoint]:
    """The points that may be run, those of equal values once: they are one trial, or one with more seeds."""
    first, *later = search.stages
    run = points[first.name]
    if not any(point.is_open for point in run):
        run = run[: _n_trials(first, run)]
    distinct: dict[frozenset[tuple[str, str]], GridPoint] = {}
    for point in [*run, *(point for stage in later for point in points[stage.name])]:
        distinct.setdefault(frozenset(point.space.texts(point.params).items()), point)
    return list(distinct.values())


def _named(points: Sequence[GridPoint], study: str) -> list[GridPoint]:
    """The points whose trials belong to a study of this name."""
    override = f"study={grammar.quote(grammar.literal(study))}"
    return [dataclasses.replace(point, space=point.space.with_study(override)) for point in points]


def _folder(master: DictConfig, study: str) -> StudyFolder:
    """The folder of a study of this name, which the sweep has from now on.

    Raises:
        UsageError: when no file can be written there.
    """
    with open_dict(master):
        master.study = grammar.literal(study)
    folder = StudyFolder(Path(hydra_job.sweep_folder(master)).absolute())
    if "?" in str(folder.database):  # SQLAlchemy would take the rest for options, and make a file of the first part
        raise UsageError(f"study and hydra.sweep.dir must give a path without '?', but it is {str(folder.path)!r}.")
    if unwritable := disk.unwritable("hydra.sweep.dir", folder.path):
        raise UsageError(unwritable)
    return folder


def _task(master: DictConfig) -> str:
    """The name of the preset or of the data."""
    choices = OmegaConf.to_container(master.hydra.runtime.choices)
    assert isinstance(choices, dict)
    return str(choices.get("sweeps") or choices.get("data") or "sweep").replace("/", "_")
