"""Drawings in two media: SVG text that takes the page's colours by CSS class, and PNG by matplotlib."""

import io
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg(body: str, *, label: str, width: int, height: int) -> str:
    """Elements as one SVG of that shape, as wide as its place on the page. label: read to who cannot see it."""
    name = escape(label, quote=True)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{body}</svg>'


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: it keeps global state and may look for a display
    return figure


def png(figure: "Figure") -> bytes:
    """The figure as a PNG on white."""
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()
