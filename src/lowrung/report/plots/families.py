"""All families of plots, the most important first."""

from collections.abc import Callable, Sequence

from lowrung.report.plots import (
    Plot,
    compute,
    curves,
    differences,
    facts,
    heat_map,
    importance,
    parallel,
    slices,
    timeline,
    trade_offs,
)
from lowrung.report.record import StudyRecord

IN_ORDER: tuple[Callable[[StudyRecord], Sequence[Plot | str]], ...] = (
    differences.plots,
    heat_map.plots,
    curves.plots,
    importance.plots,
    slices.plots,
    parallel.plots,
    trade_offs.plots,
    compute.plots,
    timeline.plots,
    facts.plots,
)
"""Each gives its plots, or a sentence for one that the study has too little for; nothing where nobody would miss it."""
