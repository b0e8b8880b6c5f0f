"""``hydra/sweeper/sampler`` and ``hydra/sweeper/pruner``: their choices, and each one's settings."""

from dataclasses import dataclass
from typing import Optional


@dataclass
class TpeConf:
    """Tree-structured Parzen estimator (arXiv:2304.11127): draws where good trials lie thicker than bad ones.

    The default, since it takes everything: pruned trials, trials under way, several objectives.

    Attributes:
        name: tpe.
        n_startup_trials: trials that are drawn at random first; ten, as the paper and Optuna have it.
        multivariate: draws all settings jointly, for settings that act together; null does with one objective, and not
            with several, as Optuna does.
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
    """Makes a list of each interval, so that all is one grid; lists are a grid with any sampler.

    Attributes:
        name: grid.
        n_values: of each interval, evenly spaced (by orders of magnitude with ``tag(log, ...)``), both ends included.
            Three: low, middle and high.
    """

    name: str = "grid"
    n_values: int = 3


@dataclass
class QmcConf:
    """A quasi-random sequence: covers the space more evenly than chance (jmlr.org/papers/v13/bergstra12a).

    Its points do not depend on results, so that trials can run all at once. The study's first is drawn at random.

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
        popsize: trials of a generation; null is 4 + 3 ln(number of intervals), rounded down, as the paper has it.
        consider_pruned_trials: learns from pruned trials too, by their last evaluation. Off, since that is no final
            result; with asha or hyperband most trials are pruned, and little is left to learn from without.
    """

    name: str = "cmaes"
    n_startup_trials: int = 1
    popsize: Optional[int] = None  # noqa: UP045
    consider_pruned_trials: bool = False


@dataclass
class Nsga2Conf:
    """NSGA-II (doi:10.1109/4235.996017): crosses and mutates the best trials; for several objectives and many trials.

    It learns from complete trials alone, and a child may be equal to its parent, whose result is then reused.

    Attributes:
        name: nsga2.
        population_size: trials of a generation, the first of which is drawn at random; 50, Optuna's default. A sweep
            of fewer trials than two generations is a random search.
    """

    name: str = "nsga2"
    population_size: int = 50


@dataclass
class GpConf:
    """A Gaussian process with the expected improvement: makes the most of few trials, at seconds a draw.

    It learns from complete trials alone. Needs scipy and torch.

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

    Rungs are at min_resource times 1, reduction_factor, its square and so on. A trial is judged when it reaches one,
    against those that were there before it; while there are fewer than reduction_factor, only the best so far goes on.
    Resources are tokens, in units of what the study's first trial had seen at its first evaluation. A trial of larger
    batches is judged by its first evaluation past a rung, later than others: where batch sizes are swept, let
    ``min_resource`` be the largest one divided by the smallest, or ``train.eval_steps`` differ with them.

    Attributes:
        name: asha.
        min_resource: the first rung. One, the first evaluation, which frees the most time; more where rates warm up for
            longer than ``train.eval_steps``.
        reduction_factor: one trial of so many goes on. Three: theory's optimum is e (arXiv:1603.06560), and with the
            ten or so evaluations of a run it makes three rungs (1, 3 and 9), where four makes two.
    """

    name: str = "asha"
    min_resource: int = 1
    reduction_factor: int = 3


@dataclass
class HyperbandConf:
    """Hyperband (arXiv:1603.06560): successive halving in several brackets, of which some judge later.

    For results that only show late, at the price of more training than `AshaConf`. Trials are dealt to brackets by name
    and number; it prunes nothing until one trial is complete, which tells how long a run is.

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
        n_warmup: units of tokens, as for asha, before which no trial is pruned. None: the first evaluation counts.
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
    """Ends a trial between two of its seeds, when the test of Wilcoxon finds it worse than the best one, seed by seed.

    For ``seed=0,1,2,3,4`` and more (doi:10.2307/3001968): what is clearly worse need not be trained with all of them.
    Needs the package scipy.

    Attributes:
        name: wilcoxon.
        p_threshold: how unlikely the difference must be if the two were alike. 0.1, Optuna's default: four seeds that
            are all worse are 1/16.
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
