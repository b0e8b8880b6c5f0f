"""Tokens per second and memory of a training step: lowrung's trainer, and TRL's own as people run it."""

import contextlib
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from benchmarks.gpu import shapes
from benchmarks.gpu.shapes import Shape
from benchmarks.peers.task import turned
from lowrung.config.schema import LoraConf, ModelConf, TrainConf, VerifyConf
from lowrung.costs import memory_formulas
from lowrung.costs.sizes import at_rank, trained_key
from lowrung.costs.terms import Asked, Memory
from lowrung.errors import is_out_of_memory
from lowrung.finetune import sizes
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.lora import adapter, products
from lowrung.finetune.models import pretrained
from lowrung.finetune.training import memory
from lowrung.finetune.training.trainer import Recipe, make_trainer

Note = Callable[[str, Any], None]
"""Keeps one result under its name."""

STEPS, WARM_UP = 8, 2
"""Of each measurement, and how many of these do not count."""

LOWRUNG, STOCK, CHECKPOINTING = "lowrung", "SFTTrainer", "SFTTrainer, checkpointing"
"""The last is TRL's own default. The others keep all activations."""

LORA = LoraConf(r=8, alpha=32.0)


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is measured at once: batches of ``size`` rows of ``data``, the same for all trainers, on a device."""

    shape: Shape
    size: int
    device: torch.device
    data: Prepared

    @property
    def train(self) -> TrainConf:
        """How lowrung's trainer trains."""
        return TrainConf(
            learning_rate=1e-4, max_steps=STEPS, batch_size=self.size, eval_batch_size=shapes.HELD_OUT,
            eval_steps=STEPS + 1, save_steps=0,
        )  # fmt: skip


def measure(name: str, quantization: str, device: torch.device, note: Note) -> None:
    """Measures each trainer with each batch of a shape, in another order for each batch."""
    shape = shapes.SHAPES[name]
    with tempfile.TemporaryDirectory(prefix="lowrung-gpu-") as scratch:
        base = ModelConf(str(Path(scratch, "model")), dtype="bfloat16", quantization=quantization)
        cells = [Cell(shape, size, device, shapes.rows(shape, size * STEPS)) for size in shape.batches]
        shapes.describe(shape, Path(base.path))
        plans = planned(base, cells)
        found: list[dict[str, Any]] = [
            {"planned_bytes": plan.training, "tokens": cell.size * shape.tokens}
            for cell, plan in zip(cells, plans, strict=True)
        ]
        whole = _whole(shape, base, device)
        for number, cell in enumerate(cells):
            for ways, model in whole or _quantized(base, device):
                for way in turned(ways, number):
                    found[number][way] = _measured(way, model, cell)
                    note(f"batch {cell.size}", found[number])


def _whole(shape: Shape, base: ModelConf, device: torch.device) -> list[tuple[Sequence[str], PreTrainedModel]]:
    """The model on which all train; none of a quantised base, which is written, to be loaded by each."""
    if base.quantization == "none":
        return [((LOWRUNG, STOCK, CHECKPOINTING), shapes.build(shape, device))]
    shapes.write(shape, Path(base.path), device)
    memory.free()
    return []


def _quantized(base: ModelConf, device: torch.device) -> Iterator[tuple[Sequence[str], PreTrainedModel]]:
    """Models, each with who trains on it: lowrung puts what a base does not quantise in float32, as PEFT says."""
    yield (LOWRUNG,), adapter.prepare_quantized(pretrained.load_base(base, device), gradient_checkpointing=False)
    yield (STOCK, CHECKPOINTING), pretrained.load_base(base, device)


def planned(base: ModelConf, cells: Sequence[Cell]) -> Sequence[Memory]:
    """What lowrung's plan says of lowrung's runs, from the config and the rows alone."""
    train = cells[0].train
    trained = at_rank(sizes.of_trained(base, [LORA], [train])[trained_key(LORA, train)], LORA.r)
    assert trained is not None
    of_base = sizes.of_base(base)
    verify = VerifyConf(enabled=False, prompts=1, new_tokens=1, merge_dtype="bfloat16")
    threads = torch.get_num_threads()
    found = []
    for cell in cells:
        rows = sizes.of_rows(cell.data.train), sizes.of_rows(cell.data.eval)
        kind = cell.device.type
        asked = Asked(of_base, trained, *rows, base, LORA, cell.train, verify, STEPS, kind, "bfloat16", threads)
        found.append(memory_formulas.memory(asked))
    return found


def _measured(way: str, model: PreTrainedModel, cell: Cell) -> dict[str, Any]:
    """One trainer's steps; where they find no memory, that is the result."""
    found: dict[str, Any] | None = None
    try:
        with tempfile.TemporaryDirectory() as folder, _bare_again(model):
            found = _steps(way, model, cell, Path(folder))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    memory.free()  # not before: a traceback holds what was computed
    return found or {"out_of_memory": True}


def _steps(way: str, model: PreTrainedModel, cell: Cell, folder: Path) -> dict[str, Any]:
    memory.free()
    if cell.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    set_seed(0)
    trainer = _lowrungs(model, cell, folder) if way == LOWRUNG else _stock(model, cell, folder, way == CHECKPOINTING)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    seconds = [after - before for before, after in itertools.pairwise(clock.read[WARM_UP - 1 :])]
    tokens = cell.size * cell.shape.tokens
    return {
        "tokens_per_second": tokens / statistics.median(seconds),
        "slowest_and_fastest": [tokens / max(seconds), tokens / min(seconds)],
        "peak_bytes": memory.peak_bytes(),
        "reserved_bytes": torch.cuda.max_memory_reserved() if cell.device.type == "cuda" else None,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


@contextlib.contextmanager
def _bare_again(model: PreTrainedModel) -> Iterator[None]:
    """Takes what a trainer has put on a model off it when the block ends, however it does."""
    try:
        yield
    finally:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, LoraLayer):
                model.set_submodule(name, layer.get_base_layer())
        vars(model).pop("peft_config", None)  # PEFT's mark of a model that has an adapter
        model.activation_checkpointing_disable()
        model.disable_input_require_grads()
        model.zero_grad()


def _lowrungs(model: PreTrainedModel, cell: Cell, folder: Path) -> Any:
    """The trainer of lowrung's runs, with the adapter of lowrung's runs."""
    adapted = adapter.attach(model, LORA)
    products.settle(adapted)
    recipe = Recipe(
        data=cell.data, lora=LORA, train=cell.train, max_length=cell.shape.tokens, seed=0,
        checkpoints=folder / "checkpoints", base_folder=folder / "base",
    )  # fmt: skip
    return make_trainer(adapted, shapes.tokenizer(), recipe, on_report=lambda *_: None)[0]


def _stock(model: PreTrainedModel, cell: Cell, folder: Path, checkpointing: bool) -> Any:
    """TRL's own trainer, with its own defaults for all that is not named."""
    args = SFTConfig(
        output_dir=str(folder), learning_rate=1e-4, max_steps=STEPS, per_device_train_batch_size=cell.size,
        max_length=cell.shape.tokens, seed=0, bf16=True, gradient_checkpointing=checkpointing, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=cell.device.type == "cpu",
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    lora = LoraConfig(r=LORA.r, lora_alpha=int(LORA.alpha), target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(
        model=model, args=args, train_dataset=cell.data.train, processing_class=shapes.tokenizer(), peft_config=lora
    )


class Clock(TrainerCallback):
    """Reads the clock after each optimiser step, when the card has made it."""

    def __init__(self) -> None:
        self.read: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Notes the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.read.append(time.perf_counter())
