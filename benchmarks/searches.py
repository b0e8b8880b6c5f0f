"""``python -m benchmarks.searches leaderboard.json ...``: stages and TPE on grids of rank and rate that were trained.

Each file is the leaderboard of a sweep over ``lora.r`` and ``train.rate_factor`` with one seed. TPE draws rates, so the
loss of each rank is interpolated over log(rate), monotonically between two rates (PCHIP). A search's regret is the loss
of what it found minus the least loss on the grid, in percent of that.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from rich.console import Console
from rich.table import Table
from scipy.interpolate import PchipInterpolator

RANK, RATE = "lora.r", "train.rate_factor"

SEEDS = 200
"""Of TPE, whose draws differ from seed to seed."""

Grid = dict[tuple[int, float], float]
"""Losses by rank and rate."""


def main() -> None:
    """Prints the runs and the regrets of each way of searching."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searches", description=__doc__)
    parser.add_argument("leaderboards", type=Path, nargs="+")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    grids = [read(path) for path in parser.parse_args().leaderboards]
    table = Table("search", "runs", "median regret", "worst regret")
    ways: dict[str, Callable[[Grid], list[tuple[int, float]]]] = {
        "grid": lambda grid: [(len(grid), min(grid.values()))],
        "stages": lambda grid: [stages(grid)],
        "TPE, as many runs as stages": lambda grid: [tpe(grid, seed, stages(grid)[0]) for seed in range(SEEDS)],
        "TPE, the prior first": lambda grid: [tpe(grid, seed, stages(grid)[0], 1.0) for seed in range(SEEDS)],
    }
    for name, search in ways.items():
        found = [(runs, loss / min(grid.values()) - 1) for grid in grids for runs, loss in search(grid)]
        regrets = [regret for _, regret in found]
        runs = statistics.fmean(runs for runs, _ in found)
        table.add_row(name, f"{runs:g}", f"{statistics.median(regrets):.2%}", f"{max(regrets):.2%}")
    Console().print(table)


def read(path: Path) -> Grid:
    """The grid that a leaderboard holds."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {(int(row["point"][RANK]), float(row["point"][RATE])): row["metrics"]["eval/loss"] for row in rows}


def stages(grid: Grid) -> tuple[int, float]:
    """All rates at the middle rank, then the other ranks at the best of them; gives the runs and the least loss."""
    ranks = sorted({rank for rank, _ in grid})
    middle = ranks[len(ranks) // 2]
    rates = {rate: loss for (rank, rate), loss in grid.items() if rank == middle}
    best = min(rates, key=lambda rate: rates[rate])
    return len(rates) + len(ranks) - 1, min(grid[rank, best] for rank in ranks)


def tpe(grid: Grid, seed: int, runs: int, first: float | None = None) -> tuple[int, float]:
    """Optuna's TPE with its own settings, over ranks and the rates between the grid's ends; see `stages`."""
    ranks = sorted({rank for rank, _ in grid})
    loss_of = {rank: _interpolated({rate: loss for (at, rate), loss in grid.items() if at == rank}) for rank in ranks}
    rates = sorted({rate for _, rate in grid})

    def objective(trial: optuna.Trial) -> float:
        rank = trial.suggest_categorical(RANK, ranks)
        return loss_of[rank](trial.suggest_float(RATE, rates[0], rates[-1], log=True))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    if first is not None:
        study.enqueue_trial({RATE: first})
    study.optimize(objective, n_trials=runs)
    return runs, study.best_value


def _interpolated(losses: dict[float, float]) -> Callable[[float], float]:
    rates: Sequence[float] = sorted(losses)
    curve = PchipInterpolator([math.log(rate) for rate in rates], [losses[rate] for rate in rates])
    return lambda rate: float(curve(math.log(rate)))


if __name__ == "__main__":
    main()
