"""Draw figures for reports: SVG that uses the page's CSS classes, and PNG with matplotlib."""

import io
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg(body: str, *, label: str, width: int, height: int) -> str:
    """Return SVG elements as one SVG, which scales to the width available on the page.

    body: the elements. label: a description for screen readers. width, height: of the coordinate
    system.
    """
    name = escape(label, quote=True)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{body}</svg>'


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure. width, height: in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, which has global state and may look for a display
    return figure


def png(figure: "Figure") -> bytes:
    """Return the figure as a PNG on a white background."""
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()
