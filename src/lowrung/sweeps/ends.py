"""How runs end: for the screen, for the leaderboard, and for their trial."""

import dataclasses
from collections.abc import Mapping

from lowrung.report import leaderboard
from lowrung.store.outcome import Outcome, Status, over_seeds
from lowrung.sweeps.happened import Finished
from lowrung.sweeps.settings import Settings


def ending(outcome: Outcome, is_reused: bool) -> str:
    """How a run ended, for the screen."""
    if outcome.status is not Status.COMPLETE:
        return f"{outcome.status}: {outcome.cause}"
    gate = {None: "", True: ", merge verified", False: ", MERGE CHECK FAILED"}[outcome.passed_gate]
    seconds = outcome.measurements.get("time/total_seconds", 0)
    origin = "reused" if is_reused else f"complete in {seconds:.0f} s"
    return f"{origin}, eval loss {outcome.metrics['base/eval_loss']:.3f} → {outcome.metrics['eval/loss']:.3f}{gate}"


def ended_run(finished: Finished) -> leaderboard.Seed:
    """A run for the leaderboard, without what no table shows: the ranks by layer alone are 10 KB a run."""
    failures = finished.outcome.gate_failures
    outcome = dataclasses.replace(finished.outcome, facts={"gate_failures": failures} if failures else {}, files={})
    return leaderboard.Seed(finished.run.seed, outcome, str(finished.run.folder.path))


def trial_outcome(settings: Settings, ended: Mapping[int, leaderboard.Seed], is_pruned: bool) -> Outcome:
    """A trial's outcome, of its runs that have ended, by seed; ``is_pruned`` where its seeds were found to be worse."""
    by_seed = {seed: run.outcome for seed, run in ended.items()}
    outcome = over_seeds(by_seed, settings.over_seeds, settings.directions)
    if outcome.status is Status.OOM and settings.on_oom == "skip":
        return dataclasses.replace(outcome, status=Status.SKIPPED, cause=f"{outcome.cause}; left out")
    if not is_pruned or outcome.status is not Status.COMPLETE:
        return outcome
    cause = f"worse than the best trial over {len(ended)} seeds"
    return dataclasses.replace(outcome, status=Status.PRUNED, cause=cause)
