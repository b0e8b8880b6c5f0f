"""``python -m benchmarks.winner``: do searches find what a grid of rank and rate finds, and at what cost?

For each seed, each search runs as users type it, in a store of its own, and its whole command is measured. Then all 27
points of the grid are trained to their ends. A search's regret is the loss of its winner over the least loss of the
grid, less one. Its cost is compared with 27 runs of ``trl sft``, as `benchmarks.peers` measured them on this machine.
The numbers go to ``benchmarks/results/winner.json``; the exit code is 1 where a regret is more than 1%.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.peers import commands, machine
from benchmarks.peers.commands import CommandFailed
from benchmarks.peers.task import TINY, Files, Task
from benchmarks.peers.ways import STUDY, train
from lowrung.store import atomic
from lowrung.store.layout import StudyFolder

RESULTS = Path(peers.__file__).parents[1] / "results"

RANKS = "4,8,16"
RATE = 1e-3
FACTORS = "1,0.56,1.8,0.32,3.2,0.18,5.6,0.1,10"
"""Times `RATE`: from 1e-4 to 1e-2 in steps of 1.8, the middle first, as in the preset."""

POINTS = len(RANKS.split(",")) * len(FACTORS.split(","))

REGRET = 0.01
"""The most of a winner."""

TARGETS = {"trl sft": 0.12, "trl sft, tuned": 0.25}
"""The most that a search may cost, as a share of a run of each for each of the grid's points."""

WORKERS = "hydra.launcher.workers=2"
"""A core for each of two runs: two threads are not twice as fast as one in products of this size."""

SEARCHES = {
    "stages": ("sweeps=rate_then_rank", f"lora.r={RANKS}", WORKERS),
    "asha": ("-m", "hydra/sweeper/pruner=asha", f"train.rate_factor={FACTORS}", f"lora.r={RANKS}", WORKERS),
}
GRID = ("-m", "verify=none", f"train.rate_factor={FACTORS}", f"lora.r={RANKS}", WORKERS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches, trains the grids, prints and records.

    Returns:
        0, or 1 where a command failed, or a search found a worse point than the grid did.
    """
    asked = _arguments(arguments)
    task = dataclasses.replace(TINY, steps=4) if asked.tiny else Task()
    task = dataclasses.replace(task, steps=asked.steps or task.steps)
    costs = _costs(task, asked.peers) if asked.peers else {}
    record: dict[str, Any] = {"about": machine.about({}), "task": dataclasses.asdict(task), "searches": []}
    with tempfile.TemporaryDirectory(prefix="lowrung-winner-") as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            files = commands.files(task, folder)
            for seed in asked.seeds:
                of_seed = dataclasses.replace(task, seed=seed)
                record["searches"] += _searches(of_seed, files, folder / f"seed-{seed}", asked.searches)
        except CommandFailed as error:
            print(error, file=sys.stderr)
            return 1
    record["costs"] = {search: _shares(record["searches"], search, costs) for search in asked.searches}
    if out := asked.out or (None if asked.tiny else RESULTS / "winner.json"):
        atomic.write_json(out, record)
    show(record)
    return 1 if any(not search["regret"] <= REGRET for search in record["searches"]) else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.winner", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the runs; each has its own grid")
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--steps", type=int, help="of a run; 16, and with --tiny 4")
    parser.add_argument("--folder", type=Path, help="is kept, and the same command goes on there; else all is deleted")
    parser.add_argument("--peers", type=Path, help="what benchmarks.peers wrote; with --tiny there is none")
    parser.add_argument("--tiny", action="store_true", help="a two-layer model: tries the script out in minutes")
    parser.add_argument("--out", type=Path, help="where the numbers go; with --tiny they go nowhere by default")
    asked = parser.parse_args(arguments)
    if asked.steps is not None and asked.steps < 4:
        parser.error(f"--steps must be at least 4, since a run is evaluated four times, but is {asked.steps}")
    if asked.peers is None and not asked.tiny:
        asked.peers = RESULTS / "peers.json"
    if asked.peers and not asked.peers.is_file():
        parser.error(f"--peers must be a file that benchmarks.peers wrote, but there is no {asked.peers}. Run it first")
    if asked.folder:
        asked.folder = asked.folder.absolute()
    return asked


def _costs(task: Task, path: Path) -> dict[str, dict[str, float]]:
    """Wall-clock and CPU seconds of a trial of each way, by the way's name.

    Raises:
        SystemExit: when the file is about other runs, or of ways that did not do the same work.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    own = {**dataclasses.asdict(task), "learning_rates": None, "seed": None, "rank": None}
    other = [f"{name}={value}" for name, value in record["task"].items() if own[name] not in (None, value)]
    if other:
        raise SystemExit(f"--peers must be of the same runs, but {path} is of {', '.join(other)}. Run it again.")
    if record["disagreements"]:
        raise SystemExit(
            f"--peers must be of ways that agree, but in {path} they trained to other losses. Run it again."
        )
    kinds = ("wall", "cpu")
    return {
        name: {kind: record["ways"][name][f"{kind}_seconds_per_trial"] for kind in kinds}
        for name in TARGETS
        if name in record["ways"]
    }


def _searches(task: Task, files: Files, folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """What each search found and took with one seed, and how much worse that is than the best of the grid."""
    found = [_search(name, task, files, folder / name) for name in names]
    # Complete runs of the stages' rates are points of the grid; those that were ended early go on.
    store = folder / "stages" / "runs"
    grid = folder / "grid"
    grid.mkdir(parents=True, exist_ok=True)
    evaluated = f"train.eval_steps={task.steps // 4}"
    command = train(task, files, store, *GRID, f"train.learning_rate={RATE}", evaluated)
    commands.run(command, grid, commands.variables(grid))
    best, *others = _rows(grid)
    if len(others) + 1 != POINTS:
        raise CommandFailed(f"the grid must have {POINTS} points that are complete, but has {len(others) + 1}")
    least = {"best_loss": best["metrics"]["eval/loss"], "best_point": best["point"]}
    return [{**search, **least, "regret": search["loss"] / least["best_loss"] - 1} for search in found]


def _search(name: str, task: Task, files: Files, folder: Path) -> dict[str, Any]:
    """Runs a search from its beginning to its end, once."""
    measured = folder / commands.MEASURED
    if not measured.is_file():  # a part of it would be measured as if it were all
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        evaluated = f"train.eval_steps={task.steps // 4}"
        command = train(task, files, folder / "runs", *SEARCHES[name], f"train.learning_rate={RATE}", evaluated)
        commands.run(command, folder, commands.variables(folder))
    taken = json.loads(measured.read_text(encoding="utf-8"))
    statuses = Counter(row["status"] for row in _all_rows(folder))
    winner = _rows(folder)[0]
    return {
        "search": name,
        "seed": task.seed,
        "wall_seconds": taken["wall_seconds"],
        "cpu_seconds": taken["cpu_seconds"],
        "trials": dict(statuses),
        "loss": winner["metrics"]["eval/loss"],
        "point": winner["point"],
    }


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The complete trials of the sweep in a folder, best first."""
    return [row for row in _all_rows(folder) if row["status"] == "complete"]


def _all_rows(folder: Path) -> list[dict[str, Any]]:
    leaderboard = StudyFolder(folder / "multirun" / STUDY).leaderboard
    rows: list[dict[str, Any]] = json.loads(leaderboard.read_text(encoding="utf-8"))
    return rows


def _shares(found: Sequence[dict[str, Any]], search: str, costs: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What a search costs, the median over the seeds, and as a share of a run of each way for each point."""
    own = {
        kind: statistics.median(one[f"{kind}_seconds"] for one in found if one["search"] == search)
        for kind in ("wall", "cpu")
    }
    shares = {name: {kind: own[kind] / (POINTS * cost[kind]) for kind in own} for name, cost in costs.items()}
    return {"wall_seconds": own["wall"], "cpu_seconds": own["cpu"], "shares": shares}


def show(record: dict[str, Any]) -> None:
    """Prints what was found, and what it cost."""
    console = Console()
    table = Table("search", "seed", "trials", "found", "its loss", "least loss of the grid", "regret", title="winners")
    for one in record["searches"]:
        trials = ", ".join(f"{count} {status}" for status, count in one["trials"].items())
        losses = [f"{one[name]:.4f}" for name in ("loss", "best_loss")]
        table.add_row(one["search"], str(one["seed"]), trials, _words(one["point"]), *losses, f"{one['regret']:.2%}")
    console.print(table)
    cost = Table(
        "search", "wall s", "CPU s", "of", "wall share", "CPU share", "target", title=f"cost of {POINTS} points"
    )
    for search, taken in record["costs"].items():
        own = [search, f"{taken['wall_seconds']:.0f}", f"{taken['cpu_seconds']:.0f}"]
        for name, share in taken["shares"].items() or [("", None)]:
            shown = [f"{share['wall']:.3f}", f"{share['cpu']:.3f}", f"{TARGETS[name]}"] if share else []
            cost.add_row(*own, name, *shown)
    console.print(cost)


def _words(point: dict[str, Any]) -> str:
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())


if __name__ == "__main__":
    sys.exit(main())
