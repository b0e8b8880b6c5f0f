"""What a run computes, from its rows as tokens to its verified weights. Its folder gets the weights and the scores."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowrung.config.schema import Config
from lowrung.runs.parallel import OnReport
from lowrung.store.held_out import HeldOut
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status

if TYPE_CHECKING:
    from lowrung.finetune.gate.case import Evidence
    from lowrung.finetune.training.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class Computation:
    """What a run computes.

    Attributes:
        config: the run's, which has been checked and pinned (`lowrung.runs.inputs.pinned`).
        folder: the run's, locked and prepared.
        data: the folder with the examples as tokens.
        base: the folder of what is computed once of the base and these examples.
        threads: CPU threads of this process, or of all ranks together.
    """

    config: Config
    folder: RunFolder
    data: Path
    base: Path
    threads: int

    def outcome(self, ranks: "Ranks", on_report: OnReport, should_stop: Callable[[], bool]) -> Outcome:
        """Trains and verifies.

        Args:
            ranks: this process's place among those of the run. All but the first have an outcome without numbers.
            on_report: called with each step's and each evaluation's metrics.
            should_stop: asked after every step.

        Raises:
            Diverged: when a loss or a trainable parameter is not finite.
            Stopped: when it was asked to stop.
        """
        outcome, evidence = _train(self, ranks, on_report, should_stop)
        # The trained model has been freed by now: the gate needs its memory.
        if evidence is None:
            return outcome
        started = time.perf_counter()
        verified = _verified(self.config, self.folder, self.base, outcome, evidence)
        took = {"time/gate_seconds": time.perf_counter() - started}
        return dataclasses.replace(verified, measurements={**verified.measurements, **took})


def _train(
    computation: Computation, ranks: "Ranks", on_report: OnReport, should_stop: Callable[[], bool]
) -> tuple[Outcome, "Evidence | None"]:
    from lowrung.finetune.data.prepared import Prepared
    from lowrung.finetune.data.template import Format
    from lowrung.finetune.gate.case import Evidence
    from lowrung.finetune.models import added_tokens, pretrained
    from lowrung.finetune.training.fine_tune import fine_tune
    from lowrung.finetune.training.trainer import Recipe

    config, folder, rows = computation.config, computation.folder, Prepared.load(computation.data)
    trained = fine_tune(
        config.model,
        Recipe(
            data=rows,
            lora=config.lora,
            train=config.train,
            max_length=config.data.max_length,
            seed=config.seed,
            checkpoints=folder.checkpoints,
            base_folder=computation.base,
        ),
        format=Format.of(config.data),
        scores=config.data.metrics,
        threads=computation.threads,
        folder=_weights(config, folder),
        on_report=on_report,
        should_stop=should_stop,
        kept_rows=config.verify.prompts if config.verify.enabled else 0,
        ranks=ranks,
    )
    if trained is None:
        return Outcome(Status.COMPLETE), None  # the first rank has the rest
    scores, answers = trained.scores, {name: np.array(each) for name, each in trained.answers.items()}
    HeldOut(rows.digests[-1], scores.tokens, scores.nll, scores.right, answers).write(folder.held_out)
    facts = {"parameters": str(trained.parameters), "ranks": trained.ranks}
    outcome = Outcome(Status.COMPLETE, trained.metrics, trained.measurements, facts=facts)
    if not config.verify.enabled:
        return outcome, None
    added = added_tokens.examples(pretrained.added_rows(config.model))
    compared = [*trained.held_out[: config.verify.prompts], *added]
    way, known = trained.labelled_logits, trained.logits
    return outcome, Evidence.of(trained.model, compared, trained.dtype, trained.ends, way, known)


def _weights(config: Config, folder: RunFolder) -> Path:
    """Where a run saves what it trained."""
    return folder.model if config.lora.is_full else folder.adapter


def _verified(config: Config, folder: RunFolder, base: Path, outcome: Outcome, evidence: "Evidence") -> Outcome:
    from lowrung.finetune.gate import verify
    from lowrung.finetune.gate.case import Case

    forgotten = _forgotten(config, folder, base)
    tolerances = config.verify.tolerances
    if config.lora.is_full:
        gate = verify.verify_model(
            base=config.model,
            model_folder=folder.model,
            evidence=evidence,
            tolerances=tolerances,
            base_folder=base,
        )
    else:
        case = Case(
            base=config.model,
            adapter_folder=folder.adapter,
            evidence=evidence,
            new_tokens=config.verify.new_tokens,
            merge_dtype=config.verify.merge_dtype,
            tolerances=tolerances,
            scratch=folder.scratch / "merged",
            base_folder=base,
        )
        gate = verify.verify(case, keep=folder.merged if config.verify.keep_merged else None)
    for failure in gate.failures:
        print(f"warning: the merged-vs-adapter gate failed: {failure}", flush=True)
    facts = {
        "gate_failures": list(gate.failures),
        "verified_on": gate.device,
        "verified_in": gate.computed_in,
        "samples": gate.samples[: config.verify.prompts],  # what follows them are rows for added tokens
    }
    return dataclasses.replace(
        outcome,
        metrics={**outcome.metrics, **forgotten, **gate.metrics},
        measurements={**outcome.measurements, **gate.measurements},
        facts={**outcome.facts, **facts},
    )


def _forgotten(config: Config, folder: RunFolder, base: Path) -> dict[str, float]:
    """The loss on general text, by metric; nothing when ``verify.forgetting`` is 0."""
    from lowrung.finetune.gate import forgetting
    from lowrung.finetune.models import pretrained

    if not config.verify.forgetting:
        return {}
    return forgetting.measure(
        base=config.model,
        folder=_weights(config, folder),
        is_adapter=not config.lora.is_full,
        rows=config.verify.forgetting,
        base_folder=base,
        device=pretrained.device(),
    )
