"""MLflow's server with a short address for each sweep: ``/sweeps/<study>`` leads to the sweep's page.

MLflow's own addresses of a page hold ids and queries, too long for a line of a terminal. This is an app of MLflow's
(``mlflow server --app-name lowrung``), which finds it by its entry point.
"""

import html
import importlib.metadata
import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "lowrung"
"""The app's name for MLflow."""

_LEADING = """<!doctype html>
<meta charset="utf-8">
<title>lowrung</title>
<script>
try {
  localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
} catch {}
location.replace(PAGE);
</script>
<p><a href="LINK">The sweep in MLflow</a></p>
"""
"""What leads a browser to a page. MLflow (3.17) opens its assistant at a browser's first visit, and with it charts are
130 pixels wide; this takes the visit for a later one. A browser that blocks the data of sites raises there."""


def is_installed() -> bool:
    """Whether MLflow finds this app; an editable installation that is older than the code lacks the entry point."""
    return any(point.name == NAME for point in importlib.metadata.entry_points(group="mlflow.app"))


def create() -> "FastAPI":
    """MLflow's own app, which answers the short addresses too."""
    from mlflow.server import fastapi_app
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    from lowrung.track import lookup, pages

    def lead(request: Request) -> Response:
        study = request.path_params["study"]
        is_charts = request.path_params.get("page") == pages.CHARTS
        found = lookup.sweep(os.environ[BACKEND_STORE_URI_ENV_VAR], study)
        if found is None:
            return PlainTextResponse(f"There is no sweep {study!r} in this store.\n", status_code=404)
        page = pages.address(found.experiment, found.run, is_charts=is_charts, has_view=found.has_view)
        address = json.dumps(f"/{page}").replace("<", "\\u003c")
        return HTMLResponse(_LEADING.replace("PAGE", address).replace("LINK", html.escape(f"/{page}")))

    served: FastAPI = fastapi_app.app
    routes = [Route(f"/{pages.SHORT}/{{study}}", lead), Route(f"/{pages.SHORT}/{{study}}/{{page}}", lead)]
    served.router.routes[:0] = routes  # first, since MLflow's app takes any path that is left
    return served
