"""A merged model ready to be served: made aside, reloaded, compared with the adapter, then put in its place."""

import dataclasses
import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from lowrung.adapters import compatibility, files
from lowrung.adapters.answers import Asked, tokenizer_of
from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.errors import LowrungError, UsageError
from lowrung.finetune.data import tokens
from lowrung.finetune.data.examples import Example
from lowrung.finetune.gate.difference import Difference, compare, completion_logits, with_remedy
from lowrung.finetune.lora import merge
from lowrung.finetune.models import added_tokens, pretrained
from lowrung.finetune.models.score import Row
from lowrung.store import atomic, disk

TEXTS = (
    "The river had risen overnight, and by morning the lower road was under water.",
    "A prime number is a whole number greater than 1 that has no divisors but 1 and itself.",
    "def area(width, height):\n    return width * height",
    "Please find attached the minutes of our last meeting, and let me know if anything is missing.",
)
"""What is compared on where no held-out examples are at hand."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""What a parameter takes on the disk."""


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A merged model and how it was verified.

    Attributes:
        folder: where it is.
        dtype: its precision.
        difference: how far the model as reloaded is from the adapter on its base in float32.
        effect: mean KL between the base and the adapter, in nats: what there was to merge.
        examples: what they were compared on, in words.
    """

    folder: Path
    dtype: str
    difference: Difference
    effect: float
    examples: str


def ship(
    *,
    base: ModelConf,
    adapter: Path,
    folder: Path,
    dtype: str,
    rows: Sequence[Row],
    tolerances: Mapping[str, ToleranceConf],
    card: Callable[[Shipped], str],
) -> Shipped:
    """Merges an adapter into its base and leaves a folder with safetensors, tokenizer, generation config and a card.

    The update is added in float32 and rounded once. The folder appears when the model in it has been reloaded from the
    disk and agrees with the adapter; or not at all.

    Args:
        base: the base; a quantised one is dequantised.
        adapter: the adapter's folder.
        folder: where to; not there yet, or empty.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        rows: held-out examples to compare on; none for `TEXTS`.
        tolerances: by dtype.
        card: writes README.md.

    Raises:
        UsageError: when the adapter is bad, the folder not empty, or the disk too small.
        LowrungError: when the merged model is not what the adapter is.
    """
    saved = files.read(adapter)
    compatibility.check(saved, base)
    check_target(folder, _bytes(base, dtype))
    maker = _Maker(base, adapter, folder, dtype, rows, tolerances[dtype], card)
    atomic.make_folder(folder, maker.fill)
    assert maker.made is not None
    return maker.made


def check_target(folder: Path, needed: int) -> None:
    """Refuses a folder that is not empty, and a disk that has less room than is needed, in bytes."""
    problems = []
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append(f"--to must be a folder that is empty or not there yet, but {folder} is not. Name another.")
    nearest = disk.nearest(folder)
    free = shutil.disk_usage(nearest).free
    if free < needed:
        problems.append(
            f"--to must be on a disk with {_size(needed)} free, but {nearest} has {_size(free)}. Free some, or name"
            " another place."
        )
    if problems:
        raise UsageError(problems)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _bytes(base: ModelConf, dtype: str) -> int:
    return sum(parameter.numel() for parameter in pretrained.skeleton(base).parameters()) * BYTES[dtype]


def _rows(base: ModelConf, adapter: Path) -> list[Row]:
    tokenizer = tokenizer_of(Asked(base, adapter))
    return [
        {"input_ids": row.input_ids, "labels": row.labels}
        for row in (tokens.tokenise(Example(text=text), tokenizer, chat=False) for text in TEXTS)
    ]


@dataclasses.dataclass
class _Maker:
    """What is needed to fill the folder, and what came of it."""

    base: ModelConf
    adapter: Path
    folder: Path
    dtype: str
    rows: Sequence[Row]
    tolerance: ToleranceConf
    card: Callable[[Shipped], str]
    made: Shipped | None = None

    def fill(self, aside: Path) -> None:
        rows = [
            *(self.rows or _rows(self.base, self.adapter)),
            *added_tokens.examples(pretrained.added_rows(self.base)),
        ]
        untrained, reference = self._save(aside, rows)
        gc.collect()
        reloaded = pretrained.load_model(
            aside, getattr(torch, self.dtype), pretrained.device(), trust_remote_code=self.base.trust_remote_code
        )
        merged, labels = completion_logits(reloaded, rows)
        shipped = Shipped(
            self.folder,
            self.dtype,
            compare(reference, merged, labels),
            compare(reference, untrained, labels).mean_kl,
            f"{len(self.rows)} held-out examples" if self.rows else f"{len(TEXTS)} texts",
        )
        self._verify(shipped)
        (aside / "README.md").write_text(self.card(shipped), encoding="utf-8")
        self.made = shipped

    def _save(self, aside: Path, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the merged model; returns what the base and the adapter said before, in float32."""
        base = merge.float32_base(self.base, pretrained.device())
        untrained, _ = completion_logits(base, rows)
        adapted = merge.with_adapter(base, self.adapter)
        reference, _ = completion_logits(adapted, rows)
        with pretrained.quiet():
            merge.save(
                merge.merge(adapted),
                tokenizer_of(Asked(self.base, self.adapter)),
                aside,
                getattr(torch, self.dtype),
            )
        return untrained, reference

    def _verify(self, shipped: Shipped) -> None:
        what = f"merged in {self.dtype}"
        failures = shipped.difference.violations(self.tolerance, what)
        failures += shipped.difference.control_failures(shipped.effect, what)
        if failures:
            listed = "; ".join(with_remedy(failures, self.dtype, shipped.difference, "--dtype "))
            raise LowrungError(f"The merged model is not what the adapter is, and was not kept: {listed}.")
