"""``hydra/sweeper/sampler`` and ``hydra/sweeper/pruner``: their choices, and each one's settings."""

from dataclasses import dataclass
from typing import Optional


@dataclass
class TpeConf:
    """Tree-structured Parzen estimator (arXiv:2304.11127): draws values where good trials are denser than bad ones.

    The default, since it can use everything: pruned trials, trials that still run, several objectives.

    Attributes:
        name: tpe.
        n_startup_trials: trials that are drawn at random first; ten, as the paper and Optuna have it.
        multivariate: draws all settings jointly, for settings that depend on each other. null is true with one
            objective and false with several, as in Optuna.
    """

    name: str = "tpe"
    n_startup_trials: int = 10
    multivariate: Optional[bool] = None  # noqa: UP045


@dataclass
class RandomConf:
    """Draws at random: the baseline that any other sampler has to beat.

    Attributes:
        name: random.
    """

    name: str = "random"


@dataclass
class GridConf:
    """Turns each interval into a list of values, so that all points are one grid. Lists are a grid with every sampler.

    Attributes:
        name: grid.
        n_values: values of each interval, evenly spaced (on a log scale with ``tag(log, ...)``), with both ends.
            Three: low, middle and high.
    """

    name: str = "grid"
    n_values: int = 3


@dataclass
class QmcConf:
    """A quasi-random sequence: covers the space more evenly than chance (jmlr.org/papers/v13/bergstra12a).

    Its points do not depend on results, so all trials can run at once. The study's first point is drawn at random.

    Attributes:
        name: qmc.
        qmc_type: ``sobol``, best where the number of trials is a power of two, or ``halton``.
    """

    name: str = "qmc"
    qmc_type: str = "sobol"


@dataclass
class CmaesConf:
    """CMA-ES (arXiv:1604.00772): moves a normal distribution to where the results are good; for some hundred trials.

    For one objective. Optuna keeps its state pickled in the study's database: go on with studies of your own only.
    Needs the package cmaes.

    Attributes:
        name: cmaes.
        n_startup_trials: trials that are drawn at random first; one, since it starts in the middle and needs none.
        popsize: trials of a generation; null is 4 + 3 ln(number of intervals), rounded down, as in the paper.
        consider_pruned_trials: learns from pruned trials too, by their last evaluation. Off, since that is no final
            result. With asha or hyperband most trials are pruned: without this setting, little is left to learn from.
    """

    name: str = "cmaes"
    n_startup_trials: int = 1
    popsize: Optional[int] = None  # noqa: UP045
    consider_pruned_trials: bool = False


@dataclass
class Nsga2Conf:
    """NSGA-II (doi:10.1109/4235.996017): crosses and mutates the best trials; for several objectives and many trials.

    It learns from complete trials only. A child may be equal to its parent; the parent's result is then reused.

    Attributes:
        name: nsga2.
        population_size: trials of a generation, the first of which is drawn at random; 50, Optuna's default. A sweep
            of fewer trials than two generations is a random search.
    """

    name: str = "nsga2"
    population_size: int = 50


@dataclass
class GpConf:
    """A Gaussian process with the expected improvement: learns most from few trials, and takes seconds for each draw.

    It learns from complete trials only. Needs scipy and torch.

    Attributes:
        name: gp.
        n_startup_trials: trials that are drawn at random first; ten, Optuna's default.
    """

    name: str = "gp"
    n_startup_trials: int = 10


@dataclass
class NoPrunerConf:
    """Every trial runs to its end.

    Attributes:
        name: none.
    """

    name: str = "none"


@dataclass
class AshaConf:
    """Asynchronous successive halving (arXiv:1810.05934): at each rung only the best part of the trials goes on.

    Rungs are at min_resource times 1, reduction_factor, its square and so on. A trial that reaches a rung is compared
    with the trials that reached it before. While these are fewer than reduction_factor, only the best so far goes on.
    The resource is tokens. One unit is what the study's first trial had seen at its first evaluation. A trial with
    larger batches is judged later than others, at its first evaluation past a rung. If batch sizes are swept, set
    ``min_resource`` to the largest batch size divided by the smallest, or let ``train.eval_steps`` differ with them.

    Attributes:
        name: asha.
        min_resource: the first rung. One is the first evaluation, which saves the most time. Take more if learning
            rates warm up for longer than ``train.eval_steps``.
        reduction_factor: one of this many trials goes on. Three: the optimum in theory is e (arXiv:1603.06560), and
            with the ten or so evaluations of a run, three makes three rungs (1, 3 and 9), and four makes two.
    """

    name: str = "asha"
    min_resource: int = 1
    reduction_factor: int = 3


@dataclass
class HyperbandConf:
    """Hyperband (arXiv:1603.06560): successive halving in several brackets, some of which judge later.

    For results that show only late. It trains more than `AshaConf`. A trial's bracket follows from the study's name and
    the trial's number. Nothing is pruned until one trial is complete, which shows how long a run is.

    Attributes:
        name: hyperband.
        min_resource: the first rung of the first bracket, as for asha.
        reduction_factor: as for asha; three is the paper's.
    """

    name: str = "hyperband"
    min_resource: int = 1
    reduction_factor: int = 3


@dataclass
class MedianConf:
    """Ends a trial whose best evaluation so far is worse than the median of complete trials at the same point.

    The mildest pruner: half of the trials go on (Google Vizier, doi:10.1145/3097983.3098043).

    Attributes:
        name: median.
        n_startup_trials: complete trials before any is pruned; five, Optuna's default, since a median of fewer says
            little.
        n_warmup: units of tokens, as for asha, before which no trial is pruned. 0: the first evaluation counts.
    """

    name: str = "median"
    n_startup_trials: int = 5
    n_warmup: int = 0


@dataclass
class PercentileConf:
    """Ends a trial that is not among the best part of the complete trials at the same point.

    Attributes:
        name: percentile.
        percentile: how many in a hundred go on. 25, the stricter quarter: 50 is the median.
        n_startup_trials: as for median.
        n_warmup: as for median.
    """

    name: str = "percentile"
    percentile: float = 25.0
    n_startup_trials: int = 5
    n_warmup: int = 0


@dataclass
class WilcoxonConf:
    """Ends a trial between two of its seeds, if Wilcoxon's test finds it worse than the best trial, seed by seed.

    For ``seed=0,1,2,3,4`` and more (doi:10.2307/3001968): a trial that is clearly worse need not be trained with all.
    Needs the package scipy.

    Attributes:
        name: wilcoxon.
        p_threshold: a trial ends if the difference is less probable than this for two equal trials. 0.1, Optuna's
            default: if all of four seeds are worse, the probability is 1/16.
        n_startup_seeds: seeds before which no trial is judged; two, Optuna's default.
    """

    name: str = "wilcoxon"
    p_threshold: float = 0.1
    n_startup_seeds: int = 2


SAMPLERS = {
    "tpe": TpeConf,
    "random": RandomConf,
    "grid": GridConf,
    "qmc": QmcConf,
    "cmaes": CmaesConf,
    "nsga2": Nsga2Conf,
    "gp": GpConf,
}
PRUNERS = {
    "none": NoPrunerConf,
    "asha": AshaConf,
    "hyperband": HyperbandConf,
    "median": MedianConf,
    "percentile": PercentileConf,
    "wilcoxon": WilcoxonConf,
}
