"""What lowrung notes of a run in MLflow: the tags' names, MLflow's own states, and how long a text may be."""

from collections.abc import Mapping

from lowrung.store.outcome import Status

KIND_TAG = "lowrung.kind"
"""The tag that says what a run is; ``sweep`` for a sweep's parent run."""

STUDY_TAG = "lowrung.study"
"""The tag with the name of a run's study."""

STATUS_TAG = "lowrung.status"
"""The tag with the exact status, of which MLflow knows only three kinds."""

SIGNATURE_TAG = "lowrung.signature"
"""The tag with the signature of a run (see `lowrung.config.signature.of`)."""

RESULTS_TAG = "lowrung.results"
"""The tag with the folder of a run's results."""

KEY_TAG = "lowrung.key"
"""The tag with what a run is opened by, once; see `lowrung.track.base.Tracker.start_run`."""

STATES = {
    Status.COMPLETE: "FINISHED",
    Status.FAILED: "FAILED",
    Status.OOM: "FAILED",
    Status.DIVERGED: "FAILED",
    Status.CANCELLED: "KILLED",
    Status.PRUNED: "KILLED",
    Status.SKIPPED: "KILLED",
}
"""MLflow's state of a run that has ended."""

_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000  # characters; MLflow's limits


def short(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as MLflow takes them."""
    return {name: _cut(value, _TAG_LENGTH) for name, value in tags.items()}


def short_params(params: Mapping[str, str]) -> dict[str, str]:
    """Parameters as MLflow takes them."""
    return {name: _cut(value, _PARAM_LENGTH) for name, value in params.items()}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
