"""Trials whose runs left small files of their scores by held-out example."""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lowrung.report.leaderboard import Seed, TrialRow
from lowrung.store.held_out import HeldOut
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status, over_seeds

TOKENS = np.array([12, 5, 30, 8, 21, 16, 9, 14, 40, 3, 7, 11])
BASE = np.array([2.9, 3.4, 2.2, 3.1, 2.6, 2.8, 3.3, 2.4, 2.1, 4.0, 3.0, 2.7])
"""Each example's mean loss; `_noise` adds what a run changes."""


def _noise(key: str, size: float, tokens: np.ndarray) -> np.ndarray:
    """What sets one run apart from another on each example; 0 on the mean over tokens."""
    drawn = size * np.random.default_rng(zlib.crc32(key.encode())).normal(size=len(tokens))
    return np.asarray(drawn - (drawn * tokens).sum() / tokens.sum())


def run(
    folder: Path,
    seed: int = 0,
    *,
    loss: float = 0.0,
    spread: float = 0.0,
    examples: int = len(TOKENS),
    data: str = "data",
    right: ArrayLike | None = None,
    answers: Mapping[str, ArrayLike] | None = None,
    name: str | None = None,
    **metrics: float,
) -> Seed:
    """A complete run and its file.

    Args:
        folder: the run's.
        seed: the run's.
        loss: what is added to each example's mean loss.
        spread: how much it differs from other runs on each example.
        examples: how many there are.
        data: the hash of the held-out data.
        right: the right tokens of each example.
        answers: scores of answers by example.
        name: what sets it apart from other runs; None is the folder's, which changes with the code where that is a
            signature.
        metrics: more of them, ``__`` for ``/``; one of the same name takes the place of the file's.
    """
    tokens = np.resize(TOKENS, examples)
    nll = tokens * (np.resize(BASE, examples) + loss + _noise(f"{name or folder.name}.{seed}", spread, tokens))
    hits = np.array(right if right is not None else tokens // 2)
    scores = {metric: np.array(each, float) for metric, each in (answers or {}).items()}
    path = RunFolder(folder)
    HeldOut(data, tokens, nll, hits, scores).write(path.held_out)
    mean = float(nll.sum() / tokens.sum())
    measured = {
        "base/eval_loss": 4.0,
        "eval/loss": mean,
        "eval/perplexity": math.exp(mean),
        "eval/token_accuracy": float(hits.sum() / tokens.sum()),
        **{f"eval/{metric}": float(each.mean()) for metric, each in scores.items()},
        **{metric.replace("__", "/"): value for metric, value in metrics.items()},
    }
    return Seed(seed, Outcome(Status.COMPLETE, measured), str(folder))


def trial(number: int, point: Mapping[str, str], *runs: Seed, broken: Sequence[str] = ()) -> TrialRow:
    """A trial of these runs."""
    return TrialRow(number, point, over_seeds({one.seed: one.outcome for one in runs}), list(runs), broken=broken)


def ranks(folder: Path, *losses: float, spread: float = 0.02, **more: object) -> list[TrialRow]:
    """Trials of one seed at ranks 4, 8, 16, ..., whose losses are above that of the base example by these."""
    return [
        trial(
            number,
            {"lora.r": str(4 * 2**number)},
            run(folder / str(number), loss=loss, spread=spread, params__trainable=1000 * 2**number, **more),  # type: ignore[arg-type]
        )
        for number, loss in enumerate(losses)
    ]
