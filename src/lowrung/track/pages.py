"""A sweep's page in MLflow: which runs, columns and charts it shows, and its address.

MLflow's page of an experiment opens as a saved view says, which is a tag of the experiment in JSON. The names in it are
those of MLflow's own page (3.17).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

VIEW_TAG = "mlflow.sharedViewState."
"""What begins the experiment's tag of a saved view; the view's name follows."""

PARENT_TAG = "mlflow.parentRunId"

SHORT, CHARTS = "sweeps", "charts"
"""The parts of a short address: ``/sweeps/<study>`` and ``/sweeps/<study>/charts``; see `lowrung.track.app`."""

_COLUMNS = ("base/eval_loss", "params/trainable", "merge/passed", "time/total_seconds")
_ID_LENGTH = 8  # of the sweep's id; enough to name one view of an experiment
_SECTION = "lowrung"


@dataclasses.dataclass(frozen=True)
class View:
    """What the page of a sweep shows.

    Attributes:
        axes: what is searched: parameters of its trials.
        objectives: metrics with ``minimize`` or ``maximize``; the first one ranks the trials.
    """

    axes: Sequence[str]
    objectives: Mapping[str, str]

    def state(self, sweep: str) -> str:
        """The saved view, in JSON.

        Args:
            sweep: the id of the sweep's run.
        """
        objective, direction = next(iter(self.objectives.items()))
        metrics = list(dict.fromkeys([*self.objectives, "eval/loss", *_COLUMNS]))
        columns = [*(f"params.`{axis}`" for axis in self.axes), *(f"metrics.`{metric}`" for metric in metrics)]
        section = {"uuid": _SECTION, "name": "Sweep", "display": True, "isReordered": False}
        state = {
            "searchFilter": children(sweep),
            "orderByKey": f"metrics.`{objective}`",
            "orderByAsc": direction == "minimize",
            "selectedColumns": columns,
            "columnOrder": ["1", "attributes.`Run Name`", *columns, "duration", "runDateAndNestInfo"],
            "columnWidths": {"attributes.`Run Name`": 260, "runDateAndNestInfo": 140},
            "runsHiddenMode": "SHOW_ALL",
            "isAccordionReordered": True,  # else MLflow puts its own sections first, by the alphabet
            "compareRunSections": [{**section, "deleted": False, "isGenerated": False}],
            "compareRunCharts": list(self._charts()),
        }
        return json.dumps(state, separators=(",", ":"))

    def _charts(self) -> Sequence[dict[str, Any]]:
        """The sweep's own charts; MLflow adds one for each other metric below."""
        charts: list[dict[str, Any]] = []
        if self.axes:
            swept = {"selectedParams": list(self.axes), "selectedMetrics": list(self.objectives)}
            charts.append({"type": "PARALLEL", **swept, "showAllRuns": True})
        for metric in dict.fromkeys(["eval/loss", *self.objectives]):
            lines = {"metricKey": metric, "selectedMetricKeys": [metric], "xAxisKey": "step", "useGlobalXaxisKey": True}
            scales = {"scaleType": "linear", "xAxisScaleType": "linear", "range": {}, "lineSmoothness": 0}
            charts.append({"type": "LINE", **lines, **scales, "yAxisKey": "metric", "yAxisExpressions": []})
        charts += [{"type": "BAR", "metricKey": metric} for metric in self.objectives]
        shared = {"metricSectionId": _SECTION, "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
        return [{"uuid": f"{_SECTION}-{number}", **chart, **shared} for number, chart in enumerate(charts)]


def children(sweep: str) -> str:
    """The condition that the runs of a sweep meet."""
    return f"tags.`{PARENT_TAG}` = '{sweep}'"


def view_name(sweep: str) -> str:
    """The name of a sweep's view."""
    return sweep[:_ID_LENGTH]


def address(experiment: str, sweep: str, *, is_charts: bool = False, has_view: bool = True) -> str:
    """The part of a page's address that comes after the server's own.

    Args:
        experiment: the experiment's id.
        sweep: the id of the sweep's run.
        is_charts: whether the page opens on the charts rather than on the table.
        has_view: whether the sweep has a saved view; those of older versions of lowrung have none.
    """
    which = {"viewStateShareKey": view_name(sweep)} if has_view else {"searchFilter": children(sweep)}
    mode = {"compareRunsMode": "CHART"} if is_charts else {}
    query = urlencode({**which, "workflowType": "machine_learning", **mode})
    return f"#/experiments/{experiment}/runs?{query}"
