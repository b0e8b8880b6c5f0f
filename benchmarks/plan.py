"""``python -m benchmarks.plan``: what the plan says of runs' memory and time, against what they took (docs/plan.md).

Each run is a process of its own, forked from a server that has imported the libraries, as a sweep's runs are. What it
measured is a line of ``benchmarks/results/plan.jsonl``; runs that have a line there are not run again. The table is
computed from these lines, by the formulas as they are now, in the order of `RUNS`; ``--table`` measures nothing.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from lowrung.config import machine, structured
from lowrung.config.schema import Config
from lowrung.costs import history, prediction
from lowrung.costs.facts import Planned
from lowrung.costs.prediction import Prediction, Speed
from lowrung.finetune.found import Preflight
from lowrung.runs import inputs, planned
from lowrung.runs.folder import prepare_folder
from lowrung.store import layout
from lowrung.store.outcome import Outcome, Status
from lowrung.sweeps.entry import PRELOAD

RESULTS = Path(__file__).parent / "results" / "plan.jsonl"

COMMON = (
    "track=none",
    "train.eval_steps=4",
    "train.max_steps=4",
    "train.eval_batch_size=8",
    "train.batch_size=4",
    "verify.prompts=4",
    "verify.new_tokens=8",
    "data.eval_size=8",
    "data.train_size=128",
)
"""Short runs: what is predicted of a step does not change with their number."""

SMOLLM = ("model=smollm2_135m",)
SMALL = ("model=tiny", "model.path=models/small")
WIDE = ("model=tiny", "model.path=models/wide")
GPT2 = ("model=tiny_gpt2", "model.path=models/gpt2", "lora=gpt2")
TINY = ("model=tiny", "data=number_words", "data.eval_size=32")

_LLAMA = {"model_type": "llama", "max_position_embeddings": 2048, "num_attention_heads": 8, "num_key_value_heads": 4}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "small": (
        "smollm2_135m",
        {
            **_LLAMA,
            **{"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 12},
            "tie_word_embeddings": True,
        },
    ),
    "wide": (
        "tiny",
        {
            **_LLAMA,
            **{"vocab_size": 512, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8},
            "tie_word_embeddings": False,
        },
    ),
    "gpt2": (
        "tiny_gpt2",
        {"model_type": "gpt2", "vocab_size": 512, "n_embd": 512, "n_layer": 6, "n_head": 8, "n_positions": 1024},
    ),
}
"""Models of shapes between those that come with lowrung: whose tokenizer each has, and its config."""

RUNS: dict[str, Sequence[str]] = {
    "135M r=8, 4 rows": SMOLLM,
    "135M r=64, 4 rows": (*SMOLLM, "lora.r=64"),
    "135M r=8, 8 rows": (*SMOLLM, "train.batch_size=8"),
    "135M r=8, 8 rows, checkpointing": (*SMOLLM, "train.batch_size=8", "train.gradient_checkpointing=true"),
    "135M r=8, 1 row of 512, packed": (*SMOLLM, "train.packing=true", "data.max_length=512", "train.batch_size=1"),
    "135M r=8, 2 rows twice": (*SMOLLM, "train.batch_size=2", "train.gradient_accumulation_steps=2"),
    "135M DoRA r=8, 4 rows": (*SMOLLM, "lora=dora"),
    "135M r=8, dropout, 4 rows": (*SMOLLM, "lora.dropout=0.1"),
    "135M attention r=16, 4 rows": (*SMOLLM, "lora.target_modules=attention", "lora.r=16"),
    "135M nf4 r=8, 4 rows": (*SMOLLM, "model.quantization=nf4"),
    "135M int8 r=8, 4 rows": (*SMOLLM, "model.quantization=int8"),
    "135M full, 4 rows": (*SMOLLM, "lora=full"),
    "135M r=8, 8 rows, no gate": (*SMOLLM, "train.batch_size=8", "verify=none", "train.max_steps=8"),
    "20M r=8, 16 rows": (*SMALL, "train.batch_size=16", "train.max_steps=8"),
    "20M full, 8 rows": (*SMALL, "lora=full", "train.batch_size=8", "train.max_steps=8"),
    "20M r=8, 2 rows of 1024, packed": (*SMALL, "train.packing=true", "data.max_length=1024", "train.batch_size=2"),
    "20M r=8, 2 rows of 1024, packed, checkpointing": (
        *SMALL,
        *("train.packing=true", "data.max_length=1024", "train.batch_size=2", "train.gradient_checkpointing=true"),
    ),
    "20M r=8 and its head, 8 rows": (*SMALL, "lora.modules_to_save=[lm_head]", "train.batch_size=8"),
    "25M r=32, 8 rows": (*WIDE, "lora.r=32", "train.batch_size=8"),
    "25M DoRA r=8, 4 rows": (*WIDE, "lora=dora"),
    "25M nf4 r=8, 8 rows": (*WIDE, "model.quantization=nf4", "train.batch_size=8"),
    "GPT-2 of 20M r=8, 8 rows": (*GPT2, "train.batch_size=8", "train.max_steps=8"),
    "tiny r=4, 8 rows, 50 steps": (
        *TINY,
        "lora.r=4",
        "train.batch_size=8",
        "train.max_steps=50",
        "train.eval_steps=10",
    ),
    "tiny full, 16 rows, 50 steps": (*TINY, "lora=full", "train.batch_size=16", "train.max_steps=50"),
    "135M r=8, the defaults": (
        *SMOLLM,
        *("train.batch_size=8", "train.max_steps=20", "train.eval_steps=10", "train.eval_batch_size=16"),
        *("verify.prompts=8", "verify.new_tokens=12", "data.eval_size=32", "data.train_size=512"),
    ),
}
"""Each run's name, and its overrides."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A run, as it was predicted and as it was.

    Attributes:
        name: the run's.
        peak: bytes that it held at most.
        predicted_peak: by the formulas.
        seconds: that it took.
        predicted_seconds: by the formulas and how fast the machine multiplies matrices.
        later: predicted once the runs above it in the table had been noted.
    """

    name: str
    peak: float
    predicted_peak: float
    seconds: float
    predicted_seconds: float
    later: Prediction

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Predicted over measured: memory, seconds, and seconds after the runs above."""
        return (
            self.predicted_peak / self.peak,
            self.predicted_seconds / self.seconds,
            self.later.seconds / self.seconds,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what has no line yet, and prints the table."""
    asked = _parser().parse_args(arguments)
    out = asked.out.absolute()
    asked.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(asked.folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    with context.Pool(1, initializer=_count_own_seconds, maxtasksperchild=1) as pool:
        pool.apply(make_models)
        known = {line["name"] for line in lines(out)}
        wanted = [] if asked.table else [one for one in configs() if re.search(asked.only, one[0])]
        for name, config in wanted:
            if name not in known:
                line = {"name": name, **_measured(pool, config)}
                with out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{name}: {line['seconds']:.1f} s, {line['peak_bytes'] / 1e6:.0f} MB", flush=True)
        if measured := lines(out):
            show(pool.apply(rows, (measured,)))


def rows(measured: Sequence[Mapping[str, Any]]) -> list[Row]:
    """What is predicted of each run that was measured, by nothing but the formulas, and once others are known."""
    found, known = [], Path(tempfile.mkdtemp(prefix="lowrung-plan-"))
    lines_of = {line["name"]: line for line in measured}
    for name, config in configs():
        if (line := lines_of.get(name)) is None:
            continue
        preflight = inputs.preflight(config)
        asked = planned.asked(config, preflight, line["threads"])
        if asked is None:
            raise SystemExit("\n".join([f"{name}: its sizes could not be counted", *preflight.problems]))
        asked = dataclasses.replace(asked, is_base_kept=line["is_base_kept"])
        first = prediction.predict(asked, Speed.unmeasured(asked, line["flops_per_second"], history.FORMULAS))
        later = prediction.predict(asked, history.speed(asked, known, line["flops_per_second"], [machine.described()]))
        facts = {"plan": Planned.of(first).facts, "verified_on": "cpu", "machine": machine.described()}
        history.note(asked, Outcome(Status.COMPLETE, measurements=line["measurements"], facts=facts), known)
        found.append(Row(name, line["peak_bytes"], first.memory.peak, line["seconds"], first.seconds, later))
    return found


def show(found: Sequence[Row]) -> None:
    """Prints the table, in Markdown, and the medians below it."""
    print("| run | memory | predicted | | time | predicted | | after those above | |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in found:
        memory, seconds, later = row.ratios
        print(
            f"| {row.name} | {row.peak / 1e6:.0f} MB | {row.predicted_peak / 1e6:.0f} MB | {memory:.2f}"
            f" | {row.seconds:.1f} s | {row.predicted_seconds:.1f} s | {seconds:.2f}"
            f" | {row.later.seconds:.1f} s | {later:.2f} |"
        )
    quantities = ("memory", "time", "time after those above")
    for name, ratios in zip(quantities, zip(*(row.ratios for row in found), strict=True), strict=True):
        errors = sorted(abs(ratio - 1) for ratio in ratios)
        print(f"{name}: {statistics.median(errors):.1%} off at the median, {errors[-1]:.0%} at most")


def _count_own_seconds() -> None:
    """Has a process with one thread take its CPU seconds for the time: those of a machine that does nothing else."""
    time.perf_counter = time.process_time


def lines(file: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def configs() -> Iterator[tuple[str, Config]]:
    """Each run's name and config."""
    structured.register()
    with initialize_config_dir(config_dir=str(layout.ROOT / "conf"), version_base="1.3"):
        for name, overrides in RUNS.items():
            yield name, structured.resolve(compose("config", [*COMMON, *overrides, "store=store"]))


def _measured(pool: Any, config: Config) -> dict[str, Any]:
    preflight = pool.apply(inputs.preflight, (config,))
    if preflight.problems:
        raise SystemExit("\n".join(preflight.problems))
    return dict(pool.apply(measure, (config, preflight)))


def measure(config: Config, preflight: Preflight) -> dict[str, Any]:
    """Trains in this process, and says what it took.

    Args:
        config: the run's.
        preflight: what was found of its model and data.
    """
    from lowrung.finetune.training import memory
    from lowrung.runs import execution
    from lowrung.runs.computation import Computation

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    config = inputs.pinned(config, preflight)
    folder = layout.run_folder(Path(config.store).absolute(), inputs.run_signature(config, preflight, threads))
    folder.outcome.unlink(missing_ok=True)
    base = inputs.base_folder(config, preflight, threads)
    is_base_kept = layout.base_scores(base, config.train.eval_batch_size).exists()
    claim = prepare_folder(folder, config, preflight, threads)
    marks: list[float] = []
    stop, samples = _sampled()
    started = time.perf_counter()
    outcome = execution.execute(
        Computation(config, folder, preflight.data_folder, base, threads),
        claim=claim,
        planned=None,
        on_point=lambda point: marks.append(time.perf_counter()),
        stop_reason=lambda: None,
    )
    took = time.perf_counter() - started
    stop.set()
    if outcome.status != "complete":
        raise SystemExit(f"{outcome.status}: {outcome.cause}")
    return {
        "measurements": dict(outcome.measurements),
        "trainable": outcome.metrics["params/trainable"],
        "peak_bytes": memory.peak_bytes(),
        "phases": _phases(samples, marks),
        "seconds": took,
        "first_point_seconds": marks[0] - started,
        "last_point_seconds": marks[-1] - started,
        "flops_per_second": preflight.flops_per_second,
        "is_base_kept": is_base_kept,
        "threads": threads,
        "machine": machine.processor(),
    }


def _sampled() -> tuple[threading.Event, list[tuple[float, int]]]:
    """What this process has resident from now on, every 20 ms, until the event is set."""
    stop, samples = threading.Event(), list[tuple[float, int]]()

    def sample() -> None:
        while not stop.wait(0.02):
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            samples.append((time.perf_counter(), resident))

    threading.Thread(target=sample, daemon=True).start()
    return stop, samples


def _phases(samples: Sequence[tuple[float, int]], marks: Sequence[float]) -> dict[str, int]:
    """The most that was resident while the base was loaded and scored, in training, and after its last report."""
    ends = {"base": marks[0], "training": marks[-1], "gate": float("inf")}
    found, last = {}, 0.0
    for name, end in ends.items():
        found[name] = max((resident for at, resident in samples if last <= at < end), default=0)
        last = end
    return found


def make_models() -> None:
    """Writes the models of `SHAPES`, with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from lowrung.finetune.models import pretrained

    for name, (tokenizer, shape) in SHAPES.items():
        folder = Path("models", name)
        if not (folder / "config.json").exists():
            torch.manual_seed(0)
            tokens: Any = AutoTokenizer.from_pretrained(pretrained.locate(f"embedded:{tokenizer}"))
            ends = {"pad_token_id": tokens.pad_token_id, "eos_token_id": tokens.eos_token_id, "bos_token_id": None}
            AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape, **ends)).save_pretrained(folder)
            tokens.save_pretrained(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("plan-runs"), help="where models and runs lie")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    parser.add_argument("--table", action="store_true", help="prints what was measured, and measures nothing")
    parser.add_argument("--only", default="", help="runs whose name matches this regular expression")
    return parser


if __name__ == "__main__":
    main()
