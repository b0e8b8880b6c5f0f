"""The merged-vs-adapter gate: is what would be shipped what was trained?

The adapter is reloaded from disk (through AutoPeft, and on a fresh base), merged, saved and reloaded, in float32 and
in the precision that would be shipped, and each is compared on the completion tokens of held-out prompts. A control
asks that the adapter changes the base's output more than the merge changes the adapter's: without it, an adapter that
was never applied would pass every comparison. What no output shows is looked at besides: the base that the adapter
names, the tokenizers, the precision that weights are stored in, and whether head and embedding are tied.
"""

import contextlib
import dataclasses
import gc
import logging
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lowrung.config.schema import ToleranceConf
from lowrung.finetune.gate import metadata as stored
from lowrung.finetune.gate.difference import Evidence, compare, completion_logits, padded, with_remedy
from lowrung.finetune.lora import merge
from lowrung.finetune.lora.adapter import prepare_quantized
from lowrung.finetune.models import added_tokens, generate, pretrained, score
from lowrung.finetune.models.pretrained import Base
from lowrung.finetune.models.score import Row
from lowrung.finetune.training import memory

TIMED_PASSES = 3


@dataclasses.dataclass(frozen=True)
class Gate:
    """The gate's result.

    Attributes:
        failures: the rules that were broken, in words; none when the gate passed.
        metrics: exact results, by MLflow name.
        measurements: the speed-up, by MLflow name.
        place: the device that it was verified on.
    """

    failures: tuple[str, ...]
    metrics: Mapping[str, float]
    measurements: Mapping[str, float]
    place: str

    @property
    def passed(self) -> bool:
        """Whether no rule was broken."""
        return not self.failures


def verify(
    *,
    base: Base,
    adapter_folder: Path,
    evidence: Evidence,
    new_tokens: int,
    merge_dtype: str,
    tolerances: Mapping[str, ToleranceConf],
    scratch: Path,
    keep: Path | None,
) -> Gate:
    """Runs the gate on the run's device, or on the CPU where that device's memory does not suffice.

    Args:
        base: the base model and how it was loaded. One that was quantised is dequantised to be merged into.
        adapter_folder: the saved adapter with its tokenizer.
        evidence: what the trained model said of held-out rows.
        new_tokens: tokens generated greedily from each prompt.
        merge_dtype: the precision that the merged model would be shipped in.
        tolerances: by dtype's name; float32, the trained and the merge dtype are needed.
        scratch: a folder for merged models; deleted afterwards.
        keep: where the merged model is kept, or None.
    """
    bench = _Bench(base, adapter_folder, evidence, new_tokens, merge_dtype, tolerances, scratch)
    place = pretrained.device()
    try:
        gate = bench.run(place)
    except Exception as error:
        if place.type == "cpu" or not memory.is_out_of_memory(error):
            raise
        _free()
        bench.base = dataclasses.replace(base, device_map=None)
        gate = bench.run(torch.device("cpu"))
    if keep is not None and (scratch / merge_dtype).exists():
        shutil.rmtree(keep, ignore_errors=True)
        (scratch / merge_dtype).rename(keep)
    shutil.rmtree(scratch, ignore_errors=True)
    return gate


def verify_model(
    *,
    base: Base,
    model_folder: Path,
    evidence: Evidence,
    tolerances: Mapping[str, ToleranceConf],
) -> Gate:
    """The gate where all weights were trained: is what was saved what was trained, and does it differ from the base?

    The arguments are those of `verify`; ``model_folder`` is the saved model's.
    """
    place = pretrained.device()
    trusted, rows = base.trust_remote_code, evidence.logits.shape[1]
    if lost := stored.vocabulary_failures(model_folder, rows, "reloaded model", trust_remote_code=trusted):
        return _cut_short(lost, place)
    reloaded = pretrained.load_model(model_folder, evidence.dtype, place, trust_remote_code=trusted)
    saved, labels = completion_logits(reloaded, evidence.rows)
    del reloaded
    _free()
    untrained, _ = completion_logits(pretrained.load_base(base, place), evidence.rows)
    difference = compare(evidence.logits, saved, labels)
    effect = compare(evidence.logits, untrained, labels).mean_kl
    failures = difference.violations(tolerances[_name(evidence.dtype)], "reloaded model")
    failures += difference.control_failures(effect, "reloaded model")
    tokenizer = pretrained.tokenizer_of(base)
    failures += stored.tokenizer_failures(
        tokenizer, model_folder, evidence.rows[0], "reloaded model", trust_remote_code=trusted
    )
    metrics = {f"merge/{name}": value for name, value in dataclasses.asdict(difference).items()}
    metrics |= {"merge/adapter_effect": effect, "merge/passed": float(not failures)}
    return Gate(tuple(failures), metrics, {}, place.type)


def _cut_short(failures: Sequence[str], place: torch.device) -> Gate:
    """The result where nothing can be compared."""
    return Gate(tuple(failures), {"merge/passed": 0.0}, {}, place.type)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclasses.dataclass(frozen=True)
class _Reference:
    """What the adapter says on a fresh float32 base, and what of that base the merged model must keep.

    Attributes:
        logits: over the rows' completions.
        labels: their tokens.
        effect: mean KL between the base and the adapter on it.
        written: what it generates greedily.
        was_tied: whether the base's head is its embedding.
    """

    logits: Tensor
    labels: Tensor
    effect: float
    written: Sequence[Sequence[int]]
    was_tied: bool


@dataclasses.dataclass
class _Bench:
    """One gate's inputs, and what it finds; at most two models are in memory at a time."""

    base: Base
    adapter_folder: Path
    evidence: Evidence
    new_tokens: int
    merge_dtype: str
    tolerances: Mapping[str, ToleranceConf]
    scratch: Path

    @property
    def _dtypes(self) -> Sequence[str]:
        """The precisions of the merged models, float32 first."""
        return list(dict.fromkeys(("float32", self.merge_dtype)))

    def run(self, place: torch.device) -> Gate:
        tokenizer = pretrained.tokenizer_of(self.base)
        failures = self._tokenizer_failures(tokenizer, self.adapter_folder, "saved adapter")
        failures += stored.origin_failures(self.adapter_folder, self.base)
        try:
            failures += self._reloaded_failures(place)
        except (KeyError, IndexError, RuntimeError) as error:  # for tensors, rows or dimensions that are not there
            if memory.is_out_of_memory(error):
                raise
            lost = f"reloaded adapter: it must load on its base, but {type(error).__name__}: {error}".splitlines()[0]
            return _cut_short([*failures, lost], place)
        adapter, reference = self._reference(place, tokenizer)
        self._save_merged(place, tokenizer)
        if short := self._vocabulary_failures(reference.logits.shape[1]):
            return _cut_short([*failures, *short], place)
        metrics: dict[str, float] = {"merge/adapter_effect": reference.effect}
        measurements: dict[str, float] = {}
        is_right = False  # in float32, which comes first
        for dtype in self._dtypes:
            merged = self._merged(dtype, place)
            if dtype == "float32":
                measurements["merge/speedup"] = _speedup(adapter, merged, self.evidence.rows[:4])
                del adapter
            difference = compare(reference.logits, completion_logits(merged, self.evidence.rows)[0], reference.labels)
            broken = difference.violations(self.tolerances[dtype], f"merged in {dtype}")
            broken += difference.control_failures(reference.effect, f"merged in {dtype}")
            failures += with_remedy(broken, dtype, difference, "verify.merge_dtype=") if is_right else broken
            is_right = not broken
            failures += self._stored_failures(merged, dtype, tokenizer, reference.was_tied)
            prefix = "merge" if dtype == "float32" else f"merge/{dtype}"
            metrics |= {f"{prefix}/{k}": v for k, v in dataclasses.asdict(difference).items()}
            metrics[f"{prefix}/greedy_agreement"] = _agreement(reference.written, self._greedy(merged, tokenizer))
            del merged
            _free()
        if self.base.quantization != "none":
            metrics |= self._requantized(place, reference.logits, reference.labels)
        metrics["merge/passed"] = float(not failures)
        return Gate(tuple(failures), metrics, measurements, place.type)

    def _reference(self, place: torch.device, tokenizer: PreTrainedTokenizerBase) -> tuple[PeftModel, _Reference]:
        base = merge.float32_base(self.base, place)
        was_tied = stored.is_tied(base)
        # Before the adapter is on it: trained biases and heads change the base itself.
        untrained, labels = completion_logits(base, self.evidence.rows)
        adapter = merge.with_adapter(base, self.adapter_folder)
        logits, _ = completion_logits(adapter, self.evidence.rows)
        effect = compare(logits, untrained, labels).mean_kl
        return adapter, _Reference(logits, labels, effect, self._greedy(adapter, tokenizer), was_tied)

    def _merged(self, dtype: str, place: torch.device) -> PreTrainedModel:
        trusted = self.base.trust_remote_code
        return pretrained.load_model(self.scratch / dtype, getattr(torch, dtype), place, trust_remote_code=trusted)

    def _tokenizer_failures(self, tokenizer: PreTrainedTokenizerBase, folder: Path, what: str) -> list[str]:
        trusted = self.base.trust_remote_code
        return stored.tokenizer_failures(tokenizer, folder, self.evidence.rows[0], what, trust_remote_code=trusted)

    def _vocabulary_failures(self, rows: int) -> list[str]:
        trusted = self.base.trust_remote_code
        found: list[str] = []
        for dtype in self._dtypes:
            found += stored.vocabulary_failures(
                self.scratch / dtype, rows, f"merged in {dtype}", trust_remote_code=trusted
            )
        return found

    def _stored_failures(
        self, merged: PreTrainedModel, dtype: str, tokenizer: PreTrainedTokenizerBase, was_tied: bool
    ) -> list[str]:
        folder, what = self.scratch / dtype, f"merged in {dtype}"
        return [
            *self._tokenizer_failures(tokenizer, folder, what),
            *stored.precision_failures(folder, dtype),
            *stored.tying_failures(merged, self.adapter_folder, was_tied=was_tied, what=what),
        ]

    def _requantized(self, place: torch.device, reference: Tensor, labels: Tensor) -> dict[str, float]:
        """What it would cost to hold the merged model in the base's few bits again; recorded, not judged.

        It is what merging into the quantised base does: dequantise, add, round to the same kind of grid.
        """
        merged = dataclasses.replace(self.base, path=str(self.scratch / "float32"), revision=None, dtype="float32")
        logits, _ = completion_logits(pretrained.load_base(merged, place), self.evidence.rows)
        difference = dataclasses.asdict(compare(reference, logits, labels))
        return {f"merge/requantized/{name}": value for name, value in difference.items()}

    def _reloaded_failures(self, place: torch.device) -> list[str]:
        """Is the saved adapter the trained one, on the base as it was loaded to be trained?"""
        logits, labels = completion_logits(self._reloaded(place), self.evidence.rows)
        difference = compare(self.evidence.logits, logits, labels)
        return difference.violations(self.tolerances[_name(self.evidence.dtype)], "reloaded adapter")

    def _reloaded(self, place: torch.device) -> PeftModel:
        """The short way, as people load an adapter, where that gives the base as it was loaded to be trained.

        AutoPeft quantises nothing and knows one device, and it enlarges a model whose tokenizer has more tokens than
        the embedding has rows (Gemma 3). An adapter that names another base has failed already.
        """
        needs_more = self.base.quantization != "none" or self.base.device_map is not None
        if needs_more or stored.origin_failures(self.adapter_folder, self.base) or self._is_short_of_rows():
            return self._reloaded_as_trained(place)
        with pretrained.quiet(), _without("mean_resizing"):
            auto: Any = AutoPeftModelForCausalLM.from_pretrained(
                str(self.adapter_folder),
                dtype=self.evidence.dtype,
                attn_implementation=self.base.attn_implementation,
                trust_remote_code=self.base.trust_remote_code,
            )
        return auto.to(place).eval()  # type: ignore[no-any-return]

    def _reloaded_as_trained(self, place: torch.device) -> PeftModel:
        """In the very precisions of training: an int8 base rounds activations, and makes much of little differences.

        SFTTrainer holds the adapter of a quantised base in bfloat16, and PEFT loads it in float32: the same weights,
        but with SmolLM2-135M in int8 a mean KL of 0.026 between them.
        """
        base = pretrained.load_base(self.base, place)
        if self.base.quantization != "none":
            base = prepare_quantized(base, gradient_checkpointing=False)
        model = merge.with_adapter(base, self.adapter_folder)
        saved = load_file(self.adapter_folder / "adapter_model.safetensors")
        for name, parameter in model.named_parameters():
            if (stored := name.replace(".default.", ".").removesuffix(".default")) in saved:
                parameter.data = parameter.data.to(saved[stored].dtype)
        return model

    def _is_short_of_rows(self) -> bool:
        tokenizer: Any = pretrained.tokenizer_of(self.base)
        return len(tokenizer) > added_tokens.row_count(pretrained.skeleton(self.base))

    def _save_merged(self, place: torch.device, tokenizer: PreTrainedTokenizerBase) -> None:
        merged = merge.merge(merge.with_adapter(merge.float32_base(self.base, place), self.adapter_folder))
        with pretrained.quiet():
            for dtype in self._dtypes:
                merge.save(merged, tokenizer, self.scratch / dtype, getattr(torch, dtype))

    def _greedy(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        prompts = [generate.prompt_tokens(dict(row)) for row in self.evidence.rows]
        return generate.greedy(model, tokenizer, prompts, new_tokens=self.new_tokens)


@contextlib.contextmanager
def _without(word: str) -> Iterator[None]:
    """Without the remarks of transformers that hold a word: of new rows, which the adapter's own then replace."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return word not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _agreement(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """The share of generated tokens that are the same up to the first difference of each pair."""
    same, total = 0, 0
    for left, right in zip(one, other, strict=True):
        total += max(len(left), len(right))
        same += next(
            (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
        )
    return same / total if total else 1.0


def _speedup(adapter: Any, merged: Any, rows: Sequence[Row]) -> float:
    """Seconds per forward pass of the adapter over those of the merged model: medians of interleaved passes."""

    def seconds(model: Any) -> float:
        batch = padded(rows, model)
        started = time.perf_counter()
        with torch.no_grad():
            score.labelled_logits(model, batch)[0].sum().item()  # .item() waits for the GPU
        return time.perf_counter() - started

    passes = [(seconds(adapter), seconds(merged)) for _ in range(TIMED_PASSES)]
    return statistics.median(p[0] for p in passes) / statistics.median(p[1] for p in passes)
