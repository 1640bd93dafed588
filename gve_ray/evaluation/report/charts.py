"""Charts of the evaluation report: radar, heat maps and intervals.

A radar or a heat map is drawn once, as a matplotlib figure: `gve_ray.report.png` gives its PNG, and
`inline_svg` puts it into the page. Intervals are small SVGs that the style sheet colours by class.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gve_ray.evaluation.scores.statistics import Interval
from gve_ray.report import new_figure, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of the models, on white; DARK_COLOURS replace them on the page in dark mode.
COLOURS = ("#2f6f8f", "#d98032", "#5b8c4a", "#8a5fa8", "#b0485f", "#6b7680")
DARK_COLOURS = ("#5aa5c8", "#e3995a", "#8cbf78", "#b795d2", "#dd7f93", "#9aa5b0")
_POSITIVE, _NEGATIVE = COLOURS[:2]
_PAGE, _INK, _FAINT, _LINE = "#ffffff", "#1c2126", "#5c6670", "#dcdfe4"
# The page's style sheet has these colours as variables, with other values for dark mode.
_VARIABLES = {colour: f"s{i}" for i, colour in enumerate(COLOURS)} | {
    _PAGE: "page",
    _INK: "ink",
    _FAINT: "faint",
    _LINE: "line",
}
_ON_NEGATIVE = "#14171a"  # text on a dark orange cell, in light and dark mode
_RING = 0.2
_STRONG = 0.6  # from this correlation on, cells are so dark that their text needs another colour
_WIDTH, _HEIGHT = 110, 16  # of an interval
_TOOLTIP = "tooltip "


@dataclass(frozen=True, kw_only=True)
class Series:
    """One model in the radar. values: 0 to 1 by ability. published: a row of the paper's table."""

    name: str
    values: Mapping[str, float]
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Correlations of rows with columns.

    name: part of the PNG's file name. cells: [rows][columns]; None on the diagonal or for an
    undefined correlation.
    """

    name: str
    title: str
    note: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Interval | None]]


def axes_of(series: Sequence[Series]) -> list[str]:
    """The abilities that every series has, in the order of the first; a radar needs at least three."""
    return [name for name in series[0].values if all(name in model.values for model in series)]


def radar(series: Sequence[Series]) -> "Figure":
    """Draw abilities around a circle, with one line per model and the first model's values as text.

    Raises ValueError if the models have fewer than three abilities in common.
    """
    axes = axes_of(series)
    if len(axes) < 3:
        raise ValueError(
            f"radar of {', '.join(axes) or 'nothing'}: it needs at least three common abilities; leave it out"
        )
    figure = new_figure(5.6, 5.2)
    figure.set_label(f"Radar of {', '.join(axes)} for {', '.join(model.name for model in series)}")
    plot: Any = figure.add_subplot(projection="polar")
    angles = [2 * math.pi * i / len(axes) for i in range(len(axes))]
    lines = []
    for number, model in enumerate(series):
        values = [model.values[name] for name in axes]
        colour, style = COLOURS[number % len(COLOURS)], "--" if model.published else "-"
        layer = 2 + len(series) - number  # the first model is on top
        lines += plot.plot(
            [*angles, angles[0]], [*values, values[0]], color=colour, linestyle=style, zorder=layer
        )
        for angle, name, value in zip(angles, axes, values, strict=True):
            tooltip = f"{model.name}, {name}: {value:.3f}"
            plot.plot(angle, value, "o", color=colour, markersize=3.5, zorder=layer, gid=_TOOLTIP + tooltip)
    plot.fill(angles, [series[0].values[name] for name in axes], color=COLOURS[0], alpha=0.15)
    plot.set_theta_offset(math.pi / 2)
    plot.set_theta_direction(-1)
    labels = [f"{name} {series[0].values[name]:.2f}" for name in axes]
    plot.set_xticks(angles, labels, fontsize=10, color=_INK)
    plot.tick_params(axis="x", pad=11)
    largest = max(model.values[name] for model in series for name in axes)
    rings = max(1, math.ceil(round(largest / _RING, 6)))
    ticks = [_RING * ring for ring in range(1, rings + 1)]
    plot.set_ylim(0, ticks[-1])
    plot.set_yticks(ticks, [f"{tick:.1f}" for tick in ticks], fontsize=8, color=_FAINT)
    plot.grid(color=_LINE)
    plot.spines["polar"].set_color(_LINE)
    plot.legend(
        lines,
        [model.name for model in series],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.06),
        ncols=min(3, len(series)),
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )
    return figure


def heat_map(data: HeatMap) -> "Figure":
    """Draw one cell per correlation, coloured by its sign and size.

    The value is bold if its interval excludes 0, else italic.
    """
    from matplotlib.patches import Rectangle

    figure = new_figure(1.6 + 0.52 * len(data.columns), 1.3 + 0.36 * len(data.rows))
    figure.set_label(data.title)
    plot: Any = figure.add_subplot()
    for i, row in enumerate(data.cells):
        for j, cell in enumerate(row):
            if cell is None:
                continue
            value = cell.estimate
            tooltip = f"{data.rows[i]}, {data.columns[j]}: {value:.2f} [{cell.low:.2f}, {cell.high:.2f}]"
            colour = _POSITIVE if value >= 0 else _NEGATIVE
            text_colour = _INK if abs(value) < _STRONG else _PAGE if value > 0 else _ON_NEGATIVE
            weight, style = ("bold", "normal") if cell.excludes(0) else ("normal", "italic")
            plot.add_patch(
                Rectangle(
                    (j - 0.5, i - 0.5), 0.98, 0.96,
                    facecolor=colour, alpha=min(1.0, abs(value)), gid=_TOOLTIP + tooltip,
                )
            )  # fmt: skip
            plot.text(
                j, i, _short(value), ha="center", va="center", fontsize=8.5,
                color=text_colour, weight=weight, style=style,
            )  # fmt: skip
    plot.set_xlim(-0.5, len(data.columns) - 0.5)
    plot.set_ylim(len(data.rows) - 0.5, -0.5)
    plot.set_xticks(range(len(data.columns)), data.columns, fontsize=9, color=_INK)
    plot.set_yticks(range(len(data.rows)), data.rows, fontsize=9, color=_INK)
    plot.xaxis.tick_top()
    plot.tick_params(length=0)
    plot.spines[:].set_visible(False)
    plot.set_title(data.title, fontsize=10.5, pad=22, color=_INK)
    return figure


def inline_svg(figure: "Figure") -> str:
    """The figure as SVG for the page: in the page's colours, with tooltips."""
    import matplotlib

    out = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gve_ray"}):
        figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    text = out.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(rf"<g id=([\"']){_TOOLTIP}(.*?)\1>", r"<g><title>\2</title>", body)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)  # ids must be unique on the page
    body = body.replace("xlink:href", "href")  # the prefix is not declared here
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    width, height = (math.ceil(72 * inches) for inches in figure.get_size_inches())  # 72 units per inch
    return svg(body, label=str(figure.get_label()), width=width, height=height)


def interval(score: float, low: float, high: float, *, label: str, chance: float | None = None) -> str:
    """Draw a score and its interval on a line from 0 to 1, with a mark at the score of chance."""

    def x(value: float) -> float:
        return 4 + (_WIDTH - 8) * min(1.0, max(0.0, value))

    mark = "" if chance is None else _mark("chance", x(chance))
    return _on_line(mark, x(low), x(score), x(high), kind="bar", label=label)


def difference(value: float, low: float, high: float, *, label: str, is_sure: bool) -> str:
    """Draw a difference of two scores and its interval on a line from -1 to 1, grey if not sure."""

    def x(position: float) -> float:
        return _WIDTH / 2 + (_WIDTH / 2 - 4) * min(1.0, max(-1.0, position))

    kind = "flat" if not is_sure else "bar" if value > 0 else "cut"
    return _on_line(_mark("zero", x(0)), x(low), x(value), x(high), kind=kind, label=label)


def _mark(kind: str, x: float) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="1" y2="{_HEIGHT - 1}"/>'


def _on_line(mark: str, low: float, at: float, high: float, *, kind: str, label: str) -> str:
    middle = _HEIGHT / 2
    body = (
        f'<line class="track" x1="4" x2="{_WIDTH - 4}" y1="{middle}" y2="{middle}"/>{mark}'
        f'<rect class="{kind} wide" x="{low:.1f}" y="{middle - 2.5}" width="{max(0.5, high - low):.1f}" height="5" '
        f'rx="2.5"/><circle class="{kind}" cx="{at:.1f}" cy="{middle}" r="4"/>'
    )
    return svg(body, label=label, width=_WIDTH, height=_HEIGHT)


def _short(value: float) -> str:
    """Two decimals without a leading zero: .98, -.71, 1."""
    text = f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no -0.00
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else f"{float(text):.0f}"
