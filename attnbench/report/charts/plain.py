"""The look of charts: colours, an empty chart, and a chart as a data URI that needs nothing from outside the page."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from attnbench.methods.draw import svg_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, DENSE = "#3b4552", "#d9dee4", "#3b4552"


def svg_uri(figure: Figure) -> str:
    """Return ``figure`` as an SVG data URI. Equal figures give equal text."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg_bytes(figure)).decode()}"


def plain_figure(height: float) -> tuple[Figure, Axes]:
    """Return an empty chart of the report's width and style, ``height`` inches high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, height), facecolor="white", layout="constrained")
    axes = figure.subplots()
    calm(axes)
    return figure, axes


def calm(axes: Axes) -> None:
    """Give axes the style of the report: no ticks, and lines at the left and below alone."""
    axes.tick_params(length=0, labelsize=9, colors=INK, which="both")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=9.5)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color="#aab3bd", linewidth=0.8)
    axes.set_axisbelow(True)
