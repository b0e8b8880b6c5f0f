"""``python -m benchmarks.merging``: what a merge costs in each precision, lowrung's and PEFT's own.

An adapter of rank 8 on all linear layers is trained on the CPU, saved, and merged in every way; each merged model is
compared with the adapter on the same base in float32, over the completion tokens of held-out examples. All numbers go
to ``benchmarks/results/merging.json``.
"""

import argparse
import dataclasses
import datetime
import gc
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from lowrung.config import signature
from lowrung.config.schema import DataConf, LoraConf, ModelConf, TrainConf
from lowrung.finetune.data import corpus
from lowrung.finetune.data.prepared import prepare
from lowrung.finetune.data.template import Format
from lowrung.finetune.gate.difference import Difference, compare, completion_logits
from lowrung.finetune.lora import merge
from lowrung.finetune.models import pretrained, quantization
from lowrung.finetune.models.head import Row
from lowrung.finetune.training import fine_tune
from lowrung.finetune.training.trainer import Recipe
from lowrung.store import atomic

RESULTS = Path(__file__).parent / "results" / "merging.json"
CPU = torch.device("cpu")
DTYPES = ("float32", "bfloat16", "float16")
TASKS = {"tiny": ("number_words", 1e-2), "smollm2_135m": ("docstrings", 3e-4)}
"""Each model's task, and its peak learning rate."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A saved adapter and the held-out rows that merges are compared on."""

    base: ModelConf
    adapter: Path
    rows: Sequence[Row]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, records after each seed, and prints."""
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(asked.threads)
    record: dict[str, Any] = {"about": _about(asked), "merges": []}
    for name in asked.models:
        for seed in range(asked.seeds):
            with tempfile.TemporaryDirectory() as folder:
                trained = train(name, seed, asked.threads, asked.rows, Path(folder))
                for result in results(trained, asked.quantizations):
                    record["merges"].append({"model": name, "seed": seed, **result})
                    print(json.dumps(record["merges"][-1]), flush=True)
            atomic.write_json(asked.out, record)
    show(record)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merging", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--quantizations", nargs="*", default=["int8", "nf4"], choices=["int8", "nf4"])
    parser.add_argument("--seeds", type=int, default=3, help="adapters of each model, each trained with another seed")
    parser.add_argument("--rows", type=int, default=8, help="held-out examples that are compared")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    return parser


def train(name: str, seed: int, threads: int, rows: int, folder: Path) -> Trained:
    """Trains an adapter for 20 steps of 8 examples on the float32 base and saves it."""
    task, learning_rate = TASKS[name]
    base = ModelConf(f"embedded:{name}")
    source = DataConf(task, train_size=512, eval_size=32, max_length=256)
    tokenizer = pretrained.load_tokenizer(pretrained.folder_of(base))
    data = prepare(corpus.load(source), tokenizer, source, folder / "tokens")
    settings = TrainConf(
        learning_rate=learning_rate,
        max_steps=20,
        batch_size=8,
        eval_batch_size=16,
        eval_steps=20,
        save_steps=0,
        warmup_ratio=0.1,
    )
    recipe = Recipe(
        data=data,
        lora=LoraConf(r=8, alpha=16),
        train=settings,
        max_length=256,
        seed=seed,
        checkpoints=folder / "checkpoints",
        base_folder=folder / "base",
    )
    trained = fine_tune.fine_tune(
        base,
        recipe,
        format=Format(),
        threads=threads,
        folder=folder / "adapter",
        on_report=lambda step, metrics: None,
    )
    assert trained is not None  # one process trains
    return Trained(base, folder / "adapter", trained.held_out[:rows])


def results(trained: Trained, quantizations: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each way of merging costs: the stored base's precision, the merge's, who merges, and the difference."""
    for stored in DTYPES:
        yield from _plain(trained, stored)
    for kind in quantizations:
        yield from _quantized(trained, kind)


def _plain(trained: Trained, stored: str) -> Iterator[dict[str, Any]]:
    """Merges into a base whose weights come in one precision; one of float16 stays in it, others go into every one."""
    reference, labels = completion_logits(_adapted(_stored_base(trained, stored), trained), trained.rows)
    for dtype in (stored,) if stored == "float16" else DTYPES:
        kind = getattr(torch, dtype)
        for way in ("lowrung", "peft"):
            base = _stored_base(trained, stored)
            if way == "peft":
                base.to(kind)
            merged = merge.merge(_adapted(base, trained)).to(kind).eval()
            served = compare(reference, completion_logits(merged, trained.rows)[0], labels)
            exact = compare(reference, completion_logits(merged.float(), trained.rows)[0], labels)
            yield _result(stored, dtype, way, served, exact)
            del base, merged
            gc.collect()


def _stored_base(trained: Trained, dtype: str) -> PreTrainedModel:
    """The base in float32 as if its weights had been stored in a precision."""
    base = pretrained.load_base(trained.base, CPU, dtype=torch.float32)
    return base.to(getattr(torch, dtype)).float()  # type: ignore[no-any-return]


def _quantized(trained: Trained, kind: str) -> Iterator[dict[str, Any]]:
    """Ours go into what a quantised base's weights stand for, PEFT's into the quantised base itself."""
    base = dataclasses.replace(trained.base, quantization=kind, dtype="float32")

    def dequantized() -> PreTrainedModel:
        return quantization.dequantized(pretrained.load_base(base, CPU), torch.float32)

    reference, labels = completion_logits(_adapted(dequantized(), trained), trained.rows)
    for dtype in DTYPES:
        merged = merge.merge(_adapted(dequantized(), trained)).to(getattr(torch, dtype)).eval()
        served = compare(reference, completion_logits(merged, trained.rows)[0], labels)
        exact = compare(reference, completion_logits(merged.float(), trained.rows)[0], labels)
        yield _result(kind, dtype, "lowrung", served, exact)
        del merged
        gc.collect()
    requantized = _adapted(pretrained.load_base(base, CPU), trained).merge_and_unload().eval()
    served = compare(reference, completion_logits(requantized, trained.rows)[0], labels)
    ordinary = quantization.dequantized(requantized, torch.float32)
    exact = compare(reference, completion_logits(ordinary, trained.rows)[0], labels)
    yield _result(kind, kind, "peft", served, exact)


def _adapted(base: PreTrainedModel, trained: Trained) -> PeftModel:
    return PeftModel.from_pretrained(base, str(trained.adapter)).eval()


def _result(stored: str, merged: str, way: str, served: Difference, exact: Difference) -> dict[str, Any]:
    """One line: ``served`` computes in the merge's precision, ``weights`` in float32 with the same weights."""
    differences = {"served": dataclasses.asdict(served), "weights": dataclasses.asdict(exact)}
    return {"base": stored, "merged": merged, "way": way, **differences}


def _about(asked: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on; nothing that names the machine."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": signature.git_commit(),
        "versions": signature.versions(("torch", "transformers", "peft", "trl", "bitsandbytes")),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": asked.threads,
        "rows": asked.rows,
        "seeds": asked.seeds,
    }


def show(record: dict[str, Any]) -> None:
    """Prints the means over the seeds, and the range where it is not nothing."""
    table = Table("model", "base", "merged", "way", "max |Δlogit|", "mean KL", "top-1", "|Δ loss|", "KL of the weights")
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for line in record["merges"]:
        groups.setdefault(tuple(line[name] for name in ("model", "base", "merged", "way")), []).append(line)
    for key, lines in groups.items():
        served = [[line["served"][field.name] for line in lines] for field in dataclasses.fields(Difference)]
        served[3] = [abs(value) for value in served[3]]
        table.add_row(*key, *map(_spread, served), _spread([line["weights"]["mean_kl"] for line in lines]))
    Console(width=180).print(table)


def _spread(values: Sequence[float]) -> str:
    """``mean (least to most)``."""
    return f"{statistics.mean(values):.2g} ({min(values):.2g} to {max(values):.2g})"


if __name__ == "__main__":
    main()
