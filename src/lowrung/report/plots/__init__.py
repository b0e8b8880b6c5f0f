"""Plots of a study: figures of plotly for the page, PNGs of matplotlib for MLflow and whoever has no browser.

Neither library is imported before a plot is made, since every sweep imports this package.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.report.record import StudyRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name: letters, digits and hyphens, such as ``learning-curves``.
        title: a few words.
        about: what is seen, what to watch for, and what is left out.
        figure: as wide as its place; its background is transparent, and its height is fixed.
    """

    name: str
    title: str
    about: str
    figure: "go.Figure"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """All plots of a study.

    Attributes:
        plots: those that the study has enough for, the most important first.
        missing: why there is no plot where a reader would look for one, a sentence each.
    """

    plots: list[Plot]
    missing: list[str]


def draw(study: StudyRecord) -> Drawn:
    """Makes all plots of a study.

    Args:
        study: also one that is still running, or of which parts are gone.
    """
    from lowrung.report.plots import families

    made = [family(study) for family in families.IN_ORDER]
    found = [one for several in made for one in several]
    return Drawn([one for one in found if isinstance(one, Plot)], [one for one in found if isinstance(one, str)])


def figures(study: StudyRecord) -> list[Plot]:
    """The plots of a study, the most important first; see `draw`."""
    return draw(study).plots


def png(study: StudyRecord, folder: Path) -> list[Path]:
    """Writes the main plots as images: differences, rank and rate or slices, learning curves.

    Args:
        study: the study.
        folder: where they go; it is made where it is missing.

    Returns:
        the files, of those plots that the study has enough for.

    Raises:
        OSError: when the folder cannot be written.
    """
    from lowrung.report.plots import images

    return images.write(study, folder)
