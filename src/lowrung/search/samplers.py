"""The samplers: how an interval's next value is drawn. A sampler is made for every draw, and keeps no state of its own.

What a search has learnt lies in the study alone. So a search that was interrupted goes on with the same draws as one
that was not.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from lowrung.errors import UsageError, install
from lowrung.search.space import Space

DEFAULT: Mapping[str, Any] = {"name": "tpe"}
"""TPE with Optuna's own settings."""

NAMES = ("tpe", "random", "grid", "qmc", "cmaes", "nsga2", "gp")

PACKAGES = {"qmc": ("scipy",), "cmaes": ("cmaes",), "gp": ("scipy", "torch")}
"""What a sampler needs besides Optuna."""

LEAST = {"n_startup_trials": 0, "popsize": 2, "population_size": 2, "n_values": 2}
"""The smallest value of each setting that has one: a population of one has nothing to learn from."""


def make(settings: Mapping[str, Any], *, seed: int, trial_number: int) -> BaseSampler:
    """A sampler for one trial.

    Its seed derives from the study's and the trial's number: with the study's alone, each draw would be the same.
    CMA-ES and NSGA-II keep their generations with the trials, and a Gaussian process is fitted anew, so that this is
    all they need. A quasi-random sequence has one seed, the study's; how far it was drawn, Optuna counts in the study.

    Args:
        settings: ``name`` and the sampler's own settings, as below ``hydra.sweeper.sampler``; Optuna's where left out.
        seed: the study's.
        trial_number: of the trial that is drawn for.

    Raises:
        UsageError: when a package that it needs is missing.
    """
    if missing := _missing(settings["name"]):
        raise UsageError(missing)
    own = {key: value for key, value in settings.items() if key != "name"}
    of_trial = _hashed(f"{seed}/{trial_number}")
    match settings["name"]:
        case "random":
            return RandomSampler(seed=of_trial)
        case "qmc":
            first = RandomSampler(seed=of_trial)  # a study's first trial, which shows QMC what there is to draw
            return QMCSampler(
                seed=_hashed(f"{seed}"),
                scramble=True,
                independent_sampler=first,
                warn_independent_sampling=False,
                **own,
            )
        case "cmaes":
            return CmaEsSampler(seed=of_trial, warn_independent_sampling=False, **own)
        case "nsga2":
            return NSGAIISampler(seed=of_trial, **own)
        case "gp":
            return GPSampler(seed=of_trial, warn_independent_sampling=False, **own)
        case "grid":
            return RandomSampler(seed=of_trial)  # nothing is drawn: the intervals have become lists
        case _:
            return TPESampler(seed=of_trial, constant_liar=True, **own)


def _hashed(text: str) -> int:
    """A seed of 32 bits, the most that NumPy takes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def problems(settings: Mapping[str, Any], objectives: Mapping[str, str], space: Space) -> list[str]:
    """What is wrong with a sampler, or with having it for these objectives and this space.

    Args:
        settings: as `make` takes them.
        objectives: metrics with ``minimize`` or ``maximize``.
        space: the search space.
    """
    name = settings["name"]
    if name not in NAMES:
        return [f"hydra/sweeper/sampler must be one of {', '.join(NAMES)}, but its name is {name!r}."]
    found = _missing(name) + _range_problems(settings)
    if name == "cmaes" and len(objectives) > 1:
        found.append(
            f"hydra/sweeper/sampler=cmaes must have one objective, but got {len(objectives)}: {', '.join(objectives)}."
            " Name one in hydra.sweeper.objectives, or add hydra/sweeper/sampler=nsga2."
        )
    if name not in (DEFAULT["name"], "grid") and not space.intervals:
        found.append(
            f"hydra/sweeper/sampler={name} must have an interval to draw from, but all that is swept is an exact grid."
            " Leave it out, or search a setting: 'train.learning_rate=tag(log,interval(1e-5,1e-3))'."
        )
    return found


def _missing(name: str) -> list[str]:
    missing = [package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    if not missing:
        return []
    return [
        f"hydra/sweeper/sampler={name} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'}"
        f" not installed. {install('samplers')}"
    ]


def _range_problems(settings: Mapping[str, Any]) -> list[str]:
    found = [
        f"hydra.sweeper.sampler.{key} must be at least {least}, but is {settings[key]}."
        for key, least in LEAST.items()
        if settings.get(key) is not None and settings[key] < least
    ]
    kind = settings.get("qmc_type", "sobol")
    if kind not in ("sobol", "halton"):
        found.append(f"hydra.sweeper.sampler.qmc_type must be sobol or halton, but is {kind!r}.")
    return found
