"""What the page of a sweep shows; tests/track/test_server.py opens it."""

import json
from typing import Any
from urllib.parse import parse_qs

from lowrung.track import pages
from lowrung.track.pages import View


def state(axes: list[str], objectives: dict[str, str]) -> Any:
    return json.loads(View(axes, objectives).state("ab" * 16))


def test_it_draws_the_axes_against_the_objectives():
    shown = state(["lora.r", "train.learning_rate"], {"eval/loss": "minimize", "params/trainable": "minimize"})
    (swept,) = (chart for chart in shown["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert swept["selectedParams"] == ["lora.r", "train.learning_rate"]
    assert swept["selectedMetrics"] == ["eval/loss", "params/trainable"]
    columns = shown["selectedColumns"]
    assert columns[:3] == ["params.`lora.r`", "params.`train.learning_rate`", "metrics.`eval/loss`"]
    assert len(columns) == len(set(columns))


def test_without_an_axis_there_is_no_chart_of_axes():
    assert all(chart["type"] != "PARALLEL" for chart in state([], {"eval/loss": "minimize"})["compareRunCharts"])


def test_a_sweep_of_an_older_version_has_its_runs_at_least():
    path, _, query = pages.address("7", "ab" * 16, has_view=False).partition("?")
    assert path == "#/experiments/7/runs"
    assert parse_qs(query)["searchFilter"] == [f"tags.`mlflow.parentRunId` = '{'ab' * 16}'"]
