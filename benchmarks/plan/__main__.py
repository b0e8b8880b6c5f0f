"""``python -m benchmarks.plan``: what the plan says of runs' memory and time, against what they took (docs/plan.md).

Each run is a process of its own, forked from a server that has imported the libraries, as a sweep's runs are. What it
measured is a line of ``benchmarks/results/plan.jsonl``; runs that have a line there are not run again. The table is
computed from these lines, by the formulas as they are now, in the order of `benchmarks.plan.runs.RUNS`; ``--table``
measures nothing.
"""

import argparse
import json
import multiprocessing
import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.plan import measuring, runs, table
from lowrung.config.schema import Config
from lowrung.runs import inputs
from lowrung.sweeps.entry import PRELOAD

RESULTS = Path(__file__).parents[1] / "results" / "plan.jsonl"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what has no line yet, and prints the table."""
    asked = _parser().parse_args(arguments)
    out = asked.out.absolute()
    asked.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(asked.folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    with ProcessPoolExecutor(1, context, initializer=measuring.count_own_seconds, max_tasks_per_child=1) as pool:
        pool.submit(runs.make_models).result()
        known = {line["name"] for line in lines(out)}
        wanted = [] if asked.table else [one for one in runs.configs() if re.search(asked.only, one[0])]
        for name, config in wanted:
            if name not in known:
                line = {"name": name, **_measured(pool, config)}
                with out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{name}: {line['seconds']:.1f} s, {line['peak_bytes'] / 1e6:.0f} MB", flush=True)
        if measured := lines(out):
            table.show(pool.submit(table.rows, measured).result())


def lines(file: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _measured(pool: ProcessPoolExecutor, config: Config) -> dict[str, Any]:
    preflight = pool.submit(inputs.preflight, config).result()
    if preflight.problems:
        raise SystemExit("\n".join(preflight.problems))
    return pool.submit(measuring.measure, config, preflight).result()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("plan-runs"), help="where models and runs lie")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    parser.add_argument("--table", action="store_true", help="prints what was measured, and measures nothing")
    parser.add_argument("--only", default="", help="runs whose name matches this regular expression")
    return parser


if __name__ == "__main__":
    main()
