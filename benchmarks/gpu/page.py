"""The tables of docs/gpus.md, from the JSON that the tests and the benchmark of a GPU write."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.needed import ROOT
from lowrung.store import atomic

DOCS = ROOT / "docs" / "gpus.md"

BEGIN, END = "<!-- measured: python -m benchmarks.gpu --page -->", "<!-- end of measured -->"

NOTHING = (
    "Nothing has been measured: no GPU was at hand. `make bench-gpu` on a machine with one writes"
    " `benchmarks/results/gpu.json`,\nand `python -m benchmarks.gpu --page` then puts its tables here."
)

GATE = ("merge/mean_kl", "merge/bfloat16/mean_kl", "merge/bfloat16/max_abs_logit_diff", "merge/requantized/mean_kl")
"""What the table has of a gate's numbers; the JSON has all. The first is of a merge in float32."""

WAYS = ("lowrung", "SFTTrainer", "SFTTrainer, checkpointing")


def main(file: Path, docs: Path) -> int:
    """Writes the page, and says what it has."""
    try:
        print(write(file, docs))
    except (OSError, ValueError, KeyError) as error:
        print(f"Error: {file} must be what the tests and the benchmark of a GPU write, and {docs} the page: {error!r}")
        return 1
    return 0


def write(file: Path, docs: Path) -> str:
    """Puts the tables between their two marks in the page, or says there that nothing was measured.

    Raises:
        ValueError: when the page has no marks.
    """
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    text = docs.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{docs} must have the lines {BEGIN} and {END}")
    shown = "\n".join(tables(record)) if record else NOTHING
    atomic.write_text(docs, f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}")
    return f"{docs}: {'tables of ' + str(file) if record else 'nothing was measured, since there is no ' + str(file)}"


def tables(record: Mapping[str, Any]) -> Iterator[str]:
    """The lines of all tables."""
    yield from _about(record["about"])
    parts: Mapping[str, Mapping[str, Any]] = record.get("parts", {})
    for kind, table in (("steps", _steps), ("nf4", _steps), ("sweeps", _sweeps)):
        for name, part in parts.items():
            if name.startswith(f"{kind} "):
                yield from ("", *_headed(name, part, table))
    if tests := record.get("tests", {}):
        yield from ("", f"`make test-gpu` recorded {len(tests)} results there.")


def _about(about: Mapping[str, Any]) -> Iterator[str]:
    if about["device"] == "cpu":
        yield "**A CPU stood for the GPU: these numbers only show that the benchmark runs.**\n"
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("torch", "transformers", "trl", "peft"))
    yield f"{'; '.join(about['cards']) or about['processor']}; {versions}; {about['date']}, commit {about['commit']}."


def _headed(name: str, part: Mapping[str, Any], table: Any) -> Iterator[str]:
    yield f"**{name}**"
    yield ""
    yield from table({key: value for key, value in part.items() if isinstance(value, dict)})
    if why := part.get("ended") or part.get("failed"):
        yield ""
        yield f"Not whole: {why.splitlines()[-1]}."


def _steps(cells: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("tokens a step", *(f"{way}: tokens/s" for way in WAYS), *(f"{way}: GB" for way in WAYS), "plan: GB")
    yield from _row(*["---:"] * 8)
    for cell in cells.values():
        found = [cell.get(way) for way in WAYS]
        speeds, peaks = ([_of(each, key) for each in found] for key in ("tokens_per_second", "peak_bytes"))
        yield from _row(
            f"{cell['tokens']:,}", *(_number(each) for each in speeds), *(_giga(each) for each in peaks),
            _giga(cell["planned_bytes"]),
        )  # fmt: skip


def _of(found: Mapping[str, Any] | None, key: str) -> Any:
    return None if found is None else "out of memory" if "out_of_memory" in found else found[key]


def _sweeps(sweeps: Mapping[str, Any]) -> Iterator[str]:
    yield from _gates(_named("gate ", sweeps))
    yield ""
    yield from _workers(_named("workers ", sweeps))


def _named(prefix: str, sweeps: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): sweep for name, sweep in sweeps.items() if name.startswith(prefix)}


def _workers(sweeps: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("workers", "complete", "trials/h", "tokens/s of all", "largest run: GB", "plan: GB")
    yield from _row(*["---:"] * 6)
    for count, sweep in sweeps.items():
        runs = sweep.get("runs", [])
        complete = f"{sum(run['status'] == 'complete' for run in runs)} of {len(runs)}" if runs else "failed"
        speeds = (_number(sweep.get(key)) for key in ("trials_per_hour", "tokens_per_second"))
        sizes = (_giga(_largest(runs, key)) for key in ("memory/peak_bytes", "plan/memory_bytes"))
        yield from _row(count, complete, *speeds, *sizes)


def _gates(sweeps: Mapping[str, Any]) -> Iterator[str]:
    shown = (name.removeprefix("merge/") for name in GATE)
    yield from _row("precision", "status", "GB", "plan: GB", "s", "plan: s", "gate: s", *shown)
    yield from _row("---", "---", *["---:"] * (5 + len(GATE)))
    for precision, sweep in sweeps.items():
        for run in sweep.get("runs", [{"status": "failed"}]):
            sizes = (_giga(run.get(key)) for key in ("memory/peak_bytes", "plan/memory_bytes"))
            seconds = ("time/total_seconds", "plan/seconds", "time/gate_seconds")
            yield from _row(precision, run["status"], *sizes, *(_number(run.get(key)) for key in (*seconds, *GATE)))


def _largest(runs: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return max((run[key] for run in runs if key in run), default=None)


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "not measured"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _giga(value: float | str | None) -> str:
    return f"{value / 1e9:.2f}" if isinstance(value, int | float) else value or "not measured"
