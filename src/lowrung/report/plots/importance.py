"""How much each axis matters."""

from collections.abc import Sequence

import plotly.graph_objects as go

from lowrung.report.plots import Plot, palette, scales, style
from lowrung.report.plots.scores import Scores, sentences
from lowrung.report.record import StudyRecord


def plots(study: StudyRecord) -> Sequence[Plot | str]:
    """One plot; why there is none where at least two axes are searched, since one alone has all importance."""
    keys = {scale.axis.key for scale in scales.varied(study)}
    shares = {key: share for key, share in study.importance.items() if key in keys}
    if len(keys) < 2:
        return []
    if not shares:
        scores = Scores(study)
        return [
            sentences(
                "No importance of axes: it takes ten trials that can be ranked, and an axis that sets the best apart.",
                scores.missing,
            )
        ]
    rows = sorted(shares.items(), key=lambda item: item[1])
    places = range(len(rows))
    bars = go.Bar(
        x=[round(share, 4) for _, share in rows],
        y=list(places),
        width=0.3,
        orientation="h",
        marker={"color": palette.BLUE},
        customdata=[key for key, _ in rows],
        hovertemplate="%{customdata}: %{x:.1%}<extra></extra>",
    )
    made = style.figure(
        [bars],
        height=70 + style.ROW * len(rows),
        xaxis=style.axis("share", range=[0, 1.02 * rows[-1][1]], tickformat=".0%", nticks=5),
        yaxis=style.axis(range=[-0.4, len(rows) - 0.1], showticklabels=False, showgrid=False),
        annotations=[
            style.note(f"{key}   <b>{share:.0%}</b>", yref="y", y=place, yshift=13, yanchor="middle")
            for place, (key, share) in zip(places, rows, strict=True)
        ],
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
    )
    about = (
        f"By how much each axis sets the best trials by {Scores(study).metric} apart from all (PED-ANOVA). An axis with"
        " a small share can be left at its cheapest value; it may still matter together with another one."
    )
    return [Plot("importance", "Importance of axes", about, made)]
