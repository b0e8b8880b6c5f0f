"""The merged-vs-adapter gate: is what would be exported what was trained?

The adapter is reloaded from disk (through AutoPeft, and on a float32 base where that is another), merged, saved and
reloaded, in float32 and in the precision of the export, and each is compared on the completion tokens of held-out
prompts. A control asks that
the adapter changes the base's output more than the merge changes the adapter's: without it, an adapter that was never
applied would pass every comparison. What no output shows is checked besides: the base that the adapter names, the
tokenizers, the precision that weights are stored in, and whether head and embedding are tied.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.errors import is_out_of_memory
from lowrung.finetune.gate import merged, metadata, reloading, rounding
from lowrung.finetune.gate.adapted import Adapted
from lowrung.finetune.gate.case import Case, Evidence
from lowrung.finetune.gate.difference import compare, completion_logits
from lowrung.finetune.gate.untrained import untrained
from lowrung.finetune.lora import merge
from lowrung.finetune.models import pretrained
from lowrung.finetune.training import memory


@dataclasses.dataclass(frozen=True)
class Gate:
    """The gate's result.

    Attributes:
        failures: the rules that were broken, in words; none when the gate passed.
        metrics: exact results, by MLflow name; ``merge/passed`` is 1 or 0.
        measurements: the speed-up, by MLflow name.
        device: the kind of device that it was verified on, ``cuda`` or ``cpu``.
        computed_in: the precision that each merged model computed in, by the one that it is stored in.
        samples: what the adapter answers to the first prompts; see `lowrung.finetune.gate.generated.samples`.
    """

    failures: tuple[str, ...]
    metrics: Mapping[str, float]
    measurements: Mapping[str, float]
    device: str
    computed_in: Mapping[str, str] = dataclasses.field(default_factory=dict)
    samples: Sequence[Mapping[str, str]] = ()

    @classmethod
    def of(
        cls,
        device: torch.device,
        failures: Sequence[str],
        metrics: Mapping[str, float] | None = None,
        measurements: Mapping[str, float] | None = None,
    ) -> "Gate":
        """The result that failures mean; without metrics where nothing could be compared."""
        passed = {"merge/passed": float(not failures)}
        return cls(tuple(failures), {**(metrics or {}), **passed}, measurements or {}, device.type)

    @property
    def passed(self) -> bool:
        """Whether no rule was broken."""
        return not self.failures


def verify(case: Case, *, keep: Path | None = None) -> Gate:
    """Verifies an adapter on the run's device, or on the CPU where that device's memory does not suffice.

    Args:
        case: the adapter, and what it is compared with.
        keep: the folder that the merged model is moved to, or None to delete it.
    """
    device = pretrained.device()
    memory.free()  # what training held
    try:
        gate = _verify_on(device, case)
    except Exception as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
        memory.free()
        on_one_device = dataclasses.replace(case.base, device_map=None)
        gate = _verify_on(torch.device("cpu"), dataclasses.replace(case, base=on_one_device))
    kept = case.scratch / case.merge_dtype
    if keep is not None and kept.exists():
        shutil.rmtree(keep, ignore_errors=True)
        kept.rename(keep)
    shutil.rmtree(case.scratch, ignore_errors=True)
    return gate


def _verify_on(device: torch.device, case: Case) -> Gate:
    """Verifies an adapter on one device; one model is in memory at a time."""
    tokenizer = pretrained.tokenizer_of(case.base)
    failures = _saved_failures(case, tokenizer)
    base = untrained(
        lambda: merge.float32_base(case.base, device), case.evidence, case.base_folder, device, case.new_tokens
    )
    try:
        adapted = reloading.reload(case, tokenizer, device)
    except (KeyError, IndexError, RuntimeError) as error:  # for tensors, rows or dimensions that are not there
        if is_out_of_memory(error):
            raise
        lost = f"reloaded adapter: it must load on its base, but {type(error).__name__}: {error}".splitlines()[0]
        return Gate.of(device, [*failures, lost])
    failures += case.evidence.failures(
        adapted.model, adapted.logits, adapted.labels, case.tolerances, "reloaded adapter"
    )
    if not reloading.is_on_float32(case):
        del adapted
        memory.free()
        adapted = Adapted.of(merge.with_adapter(merge.float32_base(case.base, device), case.adapter_folder), case.rows)
    reference = merged.Reference.of(case, adapted, base, tokenizer)
    merged.save(case, adapted.model, tokenizer)
    del adapted, base
    memory.free()
    return _merged_gate(device, case, reference, tokenizer, failures)


def _saved_failures(case: Case, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What is wrong beside the adapter."""
    folder, trusted = case.adapter_folder, case.base.trust_remote_code
    return [
        *metadata.tokenizer_failures(tokenizer, folder, case.rows[0], "saved adapter", trust_remote_code=trusted),
        *metadata.origin_failures(folder, case.base),
        *metadata.ends_failures(folder, case.evidence.ends, tokenizer, "saved adapter"),
    ]


def _merged_gate(
    device: torch.device,
    case: Case,
    reference: merged.Reference,
    tokenizer: PreTrainedTokenizerBase,
    failures: Sequence[str],
) -> Gate:
    """Compares each saved merged model; ``failures`` are those of the adapter."""
    if short := merged.vocabulary_failures(case, reference.logits.shape[1]):
        return Gate.of(device, [*failures, *short])
    found = list(failures)
    metrics: dict[str, float] = {"merge/adapter_effect": reference.effect}
    measurements: dict[str, float] = {}
    is_right = False  # in float32, which comes first
    for dtype in case.dtypes:
        model = merged.load(case, dtype, device)
        compared = merged.comparison(case, dtype, model, reference, tokenizer, is_right_in_float32=is_right)
        del model
        memory.free()
        is_right = compared.is_right
        found += compared.failures
        metrics |= compared.metrics
        if dtype == "float32":
            measurements["merge/speedup"] = compared.speedup
    if case.base.quantization != "none":
        metrics |= merged.requantized(case, reference, device)
    computed = {dtype: rounding.computed_in(dtype, device) for dtype in case.dtypes}
    gate = Gate.of(device, found, metrics, measurements)
    return dataclasses.replace(gate, computed_in=computed, samples=reference.samples)


def verify_model(
    *,
    base: ModelConf,
    model_folder: Path,
    evidence: Evidence,
    tolerances: Mapping[str, ToleranceConf],
    base_folder: Path | None = None,
) -> Gate:
    """The gate where all weights were trained: is what was saved what was trained, and does it differ from the base?

    Args:
        base: the base model, with the settings that it was loaded with.
        model_folder: the saved model with its tokenizer.
        evidence: the trained model's logits of held-out rows.
        tolerances: by dtype's name; that of training is needed.
        base_folder: where is kept what was computed of this base and these data; None keeps nothing.
    """
    device, what, trusted = pretrained.device(), "reloaded model", base.trust_remote_code
    memory.free()  # what training held
    rows = evidence.logits.shape[1]
    if short := metadata.vocabulary_failures(model_folder, rows, what, trust_remote_code=trusted):
        return Gate.of(device, short)
    model = pretrained.load_model(model_folder, evidence.dtype, device, trust_remote_code=trusted)
    saved, labels = completion_logits(model, evidence.rows)
    failures = evidence.failures(model, saved, labels, tolerances, what)
    del model
    memory.free()
    of_base = untrained(lambda: pretrained.load_base(base, device), evidence, base_folder, device)
    difference = compare(evidence.logits, saved, labels)
    effect = compare(evidence.logits, of_base.logits, labels).mean_kl
    failures += difference.control_failures(effect, what)
    tokenizer = pretrained.tokenizer_of(base)
    failures += metadata.tokenizer_failures(tokenizer, model_folder, evidence.rows[0], what, trust_remote_code=trusted)
    failures += metadata.ends_failures(model_folder, evidence.ends, tokenizer, what)
    metrics = {f"merge/{name}": value for name, value in dataclasses.asdict(difference).items()}
    return Gate.of(device, failures, {**metrics, "merge/adapter_effect": effect})
