"""`lowrung compare`: in what the configs of runs differ, and what came of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrung.after import named
from lowrung.after.bases import config_of
from lowrung.errors import UsageError
from lowrung.layout import RunFolder
from lowrung.outcome import Outcome
from lowrung.report.tables import table

NOT_COMPARED = ("study", "store", "sweeps", "track")
"""What says where a run was recorded, and nothing about it."""


def compare(names: Sequence[str]) -> str:
    """The settings in which runs differ, how each ended, and all their metrics, a column a run.

    Args:
        names: two or more runs, trials, or adapters of runs.

    Raises:
        UsageError: when there are fewer than two, or one is no run.
    """
    if len(set(names)) < 2:
        raise UsageError(f"compare needs at least two runs, but has {len(set(names))}. Name another.")
    names = list(dict.fromkeys(names))
    runs = named.runs(names, Path.cwd())
    _check(names, runs)
    settings = _differing([_flat(config_of(run)) for run in runs])
    outcomes = [Outcome.read(run.outcome) for run in runs]
    status = {"status": [str(outcome.status) if outcome else "unfinished" for outcome in outcomes]}
    metrics = _columns([outcome.metrics if outcome else {} for outcome in outcomes])
    parts = [("settings that differ", settings), ("result", status | metrics)]
    return "\n\n".join(table([title, *names], _rows(values), left=(title,)) for title, values in parts)


def _check(names: Sequence[str], runs: Sequence[RunFolder]) -> None:
    problems = [
        f"{name} must be a run or an adapter in a run's folder, but {run.path} holds no run's config.yaml."
        for name, run in zip(names, runs, strict=True)
        if not run.config.is_file()
    ]
    if problems:
        raise UsageError(problems)


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if above or key not in NOT_COMPARED:
            flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    settings = dict.fromkeys(setting for config in configs for setting in config)
    values = {setting: [config.get(setting) for config in configs] for setting in settings}
    return {
        setting: [_shown(value) for value in each]
        for setting, each in values.items()
        if any(value != each[0] for value in each)
    }


def _columns(metrics: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    names = sorted({name for values in metrics for name in values})
    return {name: [_shown(values.get(name)) for values in metrics] for name in names}


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _rows(values: Mapping[str, Sequence[str]]) -> list[list[str]]:
    return [[name, *cells] for name, cells in values.items()]
