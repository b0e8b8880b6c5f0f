"""report.html: a study on one page, in one file that asks nothing of any network.

plotly.js is 4.8 MB, so the page holds it compressed, and the browser inflates it. The page's policy lets nothing run
but its own two scripts, by their hashes, and lets nothing be loaded.
"""

import base64
import functools
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lowrung.report.page import tables
from lowrung.report.plots import Drawn, Plot
from lowrung.report.record import StudyRecord
from lowrung.version import __version__

RELOAD_SECONDS = 5
"""Between two reloads of a page that is rewritten while the sweep runs."""


def render(study: StudyRecord, drawn: Drawn, *, reloads: bool = False) -> str:
    """The page, as HTML.

    Args:
        study: what it shows. Names, causes and values are shown as text, whatever they hold.
        drawn: its plots.
        reloads: whether the page reloads itself.
    """
    figures, script = _figures(drawn.plots), _own("page.js")
    return (
        _templates()
        .get_template("page.html.jinja")
        .render(
            study=study,
            main=drawn.plots[0] if drawn.plots else None,
            others=drawn.plots[1:],
            missing=drawn.missing,
            tables=tables.of(study),
            commands=tables.comparison(study),
            version=__version__,
            policy=_policy([script, _plotly()] if drawn.plots else []),
            style=Markup(_own("page.css")),  # noqa: S704  (ours, as all that is marked so)
            script=Markup(script),  # noqa: S704
            plotly=_packed(_plotly()) if drawn.plots else "",
            figures=figures,
            reload_seconds=RELOAD_SECONDS if reloads else None,
        )
    )


def _policy(scripts: Sequence[str]) -> str:
    """What the page may do: these scripts, its own styles, and images that it makes itself."""
    allowed = " ".join(f"'sha256-{_hash(text)}'" for text in scripts) or "'none'"
    rules = {
        "default-src": "'none'",
        "script-src": allowed,
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{rule} {value}" for rule, value in rules.items())


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _figures(plots: Sequence[Plot]) -> str:
    """The figures, compressed: 2,000 trials take 60 KB."""
    return _packed(json.dumps({plot.name: json.loads(plot.figure.to_json()) for plot in plots}))


@functools.lru_cache(maxsize=2)
def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _own(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("lowrung.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
