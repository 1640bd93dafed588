"""Charts of the evaluation report (radar, heat maps, intervals), as SVG for the page and PNG for
other uses.

The page's style sheet colours the SVG by class: `s0`, `s1`, ... are the series, `pos` and `neg` the
two signs of a correlation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from gve_ray.report import new_figure, png, svg

COLOURS = ("#2f6f8f", "#d98032", "#5b8c4a", "#8a5fa8", "#b0485f", "#6b7680")  # of s0, s1, ... on white
_RADAR = (420, 330)
_RADIUS = 124
_RING = 0.2
_HEAT_WIDTH = 360
_STRONG = 0.6  # from this correlation on, cells are dark enough to need light text
_LINE = (110, 16)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One model in the radar. values: 0 to 1 by ability. published: a row of the paper's table."""

    name: str
    values: Mapping[str, float]
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A correlation and its interval."""

    value: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


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
    cells: Sequence[Sequence[Cell | None]]


def axes_of(series: Sequence[Series]) -> list[str]:
    """The abilities that every series has, in the order of the first; a radar needs at least three."""
    return [name for name in series[0].values if all(name in model.values for model in series)]


def radar(series: Sequence[Series]) -> str:
    """Draw abilities around a circle, one line per model, with the values of the first model as
    text.

    Raises ValueError if the models have fewer than three abilities in common.
    """
    axes = _checked_axes(series)
    top = _top(series, axes)
    centre = _RADAR[0] / 2, _RADAR[1] / 2

    def at(i: int, share: float) -> tuple[float, float]:
        angle = 2 * math.pi * i / len(axes) - math.pi / 2
        return (
            centre[0] + _RADIUS * share * math.cos(angle),
            centre[1] + _RADIUS * share * math.sin(angle),
        )

    def ring(shares: Sequence[float]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*at(i, share)) for i, share in enumerate(shares))

    parts = []
    for step in range(1, round(top / _RING) + 1):
        share = step * _RING / top
        parts.append(f'<polygon class="ring" points="{ring([share] * len(axes))}"/>')
    for i, name in enumerate(axes):
        x, y = at(i, 1)
        parts.append(f'<line class="ring" x1="{centre[0]}" y1="{centre[1]}" x2="{x:.1f}" y2="{y:.1f}"/>')
        lx, ly = at(i, 1.17)
        anchor = "middle" if abs(lx - centre[0]) < 12 else "start" if lx > centre[0] else "end"
        value = f'<tspan class="faint" dx="5">{series[0].values[name]:.2f}</tspan>'
        parts.append(
            f'<text class="strong" x="{lx:.1f}" y="{ly + 4:.1f}" text-anchor="{anchor}">{escape(name)}{value}</text>'
        )
    for number, model in reversed(list(enumerate(series))):
        points = ring([model.values[name] / top for name in axes])
        kind = f"series s{number % len(COLOURS)}" + (" published" if model.published else "")
        parts.append(f'<polygon class="{kind}{" first" if number == 0 else ""}" points="{points}"/>')
        for i, name in enumerate(axes):
            x, y = at(i, model.values[name] / top)
            tooltip = f"{model.name}, {name}: {model.values[name]:.3f}"
            parts.append(
                f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(tooltip)}</title></circle>'
            )
    for step in range(1, round(top / _RING) + 1):
        x, y = at(0, step * _RING / top)
        parts.append(f'<text class="tick" x="{x + 3:.1f}" y="{y + 10:.1f}">{step * _RING:.1f}</text>')
    label = f"Radar of {', '.join(axes)} for {', '.join(model.name for model in series)}"
    return svg("".join(parts), label=label, width=_RADAR[0], height=_RADAR[1])


def radar_png(series: Sequence[Series]) -> bytes:
    """The radar as PNG, for a README or a paper. Raises ValueError as `radar`."""
    axes = _checked_axes(series)
    figure = new_figure(5.6, 5.2)
    plot: Any = figure.add_subplot(projection="polar")
    angles = [2 * math.pi * i / len(axes) for i in range(len(axes))]
    for number, model in enumerate(series):
        values = [model.values[name] for name in axes]
        plot.plot(
            [*angles, angles[0]], [*values, values[0]],
            color=COLOURS[number % len(COLOURS)], marker="o",
            markersize=3.5,
            linestyle="--" if model.published else "-", label=model.name,
        )  # fmt: skip
    plot.fill(angles, [series[0].values[name] for name in axes], color=COLOURS[0], alpha=0.15)
    plot.set_theta_offset(math.pi / 2)
    plot.set_theta_direction(-1)
    plot.set_xticks(angles, axes, fontsize=10)
    plot.set_ylim(0, _top(series, axes))
    plot.tick_params(axis="y", labelsize=8, labelcolor="#5c6670")
    plot.grid(color="#dcdfe4")
    plot.spines["polar"].set_color("#dcdfe4")
    plot.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=min(3, len(series)), frameon=False, fontsize=9
    )
    return png(figure)


def heat_map(data: HeatMap) -> str:
    """Draw one cell per correlation, coloured by sign and size; italic figures may be 0, bold ones
    are not.
    """
    label_width = max((len(name) for name in data.rows), default=1) * 7 + 14
    width = (_HEAT_WIDTH - label_width) / len(data.columns)
    height = min(width, 26)
    top = 18
    parts = [
        f'<text x="{label_width + width * (j + 0.5):.1f}" y="12" text-anchor="middle">{escape(name)}</text>'
        for j, name in enumerate(data.columns)
    ]
    for i, name in enumerate(data.rows):
        y = top + height * i
        parts.append(
            f'<text x="{label_width - 6:.1f}" y="{y + height / 2 + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        )
        for j, other in enumerate(data.columns):
            cell, x = data.cells[i][j], label_width + width * j
            if cell is None:
                continue
            tooltip = f"{name}, {other}: {cell.value:.2f} [{cell.low:.2f}, {cell.high:.2f}]"
            kind = ("" if abs(cell.value) < _STRONG else " on" if cell.value > 0 else " against") + (
                " sure" if cell.is_sure else ""
            )
            parts.append(
                f'<g><title>{escape(tooltip)}</title><rect class="{"pos" if cell.value >= 0 else "neg"}" '
                f'x="{x:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{height - 1:.1f}" '
                f'fill-opacity="{abs(cell.value):.2f}"/>'
                f'<text class="cell{kind}" x="{x + width / 2:.1f}" y="{y + height / 2 + 3.5:.1f}" '
                f'text-anchor="middle">{_short(cell.value)}</text></g>'
            )
    total = math.ceil(top + height * len(data.rows))
    return svg("".join(parts), label=data.title, width=_HEAT_WIDTH, height=total)


def heat_map_png(data: HeatMap) -> bytes:
    """The heat map as PNG, for a README or a paper."""
    rows, columns = len(data.rows), len(data.columns)
    figure = new_figure(1.6 + 0.52 * columns, 1.3 + 0.36 * rows)
    plot = figure.add_subplot()
    values = [[math.nan if cell is None else cell.value for cell in row] for row in data.cells]
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("correlation", [COLOURS[1], "#ffffff", COLOURS[0]])
    plot.imshow(values, cmap=colours, vmin=-1, vmax=1, aspect="auto")
    for i, row in enumerate(data.cells):
        for j, cell in enumerate(row):
            if cell is not None:
                colour = "#ffffff" if cell.value >= _STRONG else "#1c2126"
                weight, style = ("bold", "normal") if cell.is_sure else ("normal", "italic")
                plot.text(
                    j, i, _short(cell.value), ha="center", va="center", fontsize=8.5,
                    color=colour, weight=weight, style=style,
                )  # fmt: skip
    plot.set_xticks(range(columns), data.columns, fontsize=9)
    plot.set_yticks(range(rows), data.rows, fontsize=9)
    plot.xaxis.tick_top()
    plot.tick_params(length=0)
    plot.spines[:].set_visible(False)
    plot.set_title(data.title, fontsize=10.5, pad=22)
    return png(figure)


def interval(score: float, low: float, high: float, *, label: str, chance: float | None = None) -> str:
    """Draw a score and its interval on a line from 0 to 1; a thin mark shows the score expected by
    chance.
    """
    width, height = _LINE

    def x(value: float) -> float:
        return 4 + (width - 8) * min(1.0, max(0.0, value))

    mark = ""
    if chance is not None:
        mark = f'<line class="chance" x1="{x(chance):.1f}" x2="{x(chance):.1f}" y1="1" y2="{height - 1}"/>'
    body = _whisker(x(low), x(score), x(high), height, "bar")
    track = f'<line class="track" x1="4" x2="{width - 4}" y1="{height / 2}" y2="{height / 2}"/>'
    return svg(track + mark + body, label=label, width=width, height=height)


def difference(value: float, low: float, high: float, *, label: str, is_sure: bool) -> str:
    """Draw a difference of two scores and its interval on a line from -1 to 1, grey unless
    `is_sure`.
    """
    width, height = _LINE

    def x(position: float) -> float:
        return width / 2 + (width / 2 - 4) * min(1.0, max(-1.0, position))

    kind = "flat" if not is_sure else "bar" if value > 0 else "cut"
    track = f'<line class="track" x1="4" x2="{width - 4}" y1="{height / 2}" y2="{height / 2}"/>'
    zero = f'<line class="zero" x1="{width / 2}" x2="{width / 2}" y1="1" y2="{height - 1}"/>'
    return svg(
        track + zero + _whisker(x(low), x(value), x(high), height, kind),
        label=label,
        width=width,
        height=height,
    )


def _whisker(low: float, at: float, high: float, height: int, kind: str) -> str:
    middle = height / 2
    return (
        f'<rect class="{kind} wide" x="{low:.1f}" y="{middle - 2.5}" width="{max(0.5, high - low):.1f}" height="5" '
        f'rx="2.5"/><circle class="{kind}" cx="{at:.1f}" cy="{middle}" r="4"/>'
    )


def _short(value: float) -> str:
    """Two decimals without a leading zero: .98, -.71, 1."""
    text = f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no -0.00
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else f"{float(text):.0f}"


def _top(series: Sequence[Series], axes: Sequence[str]) -> float:
    """The end of the scale: the first ring that is not exceeded by any value."""
    largest = max(model.values[name] for model in series for name in axes)
    return max(1, math.ceil(round(largest / _RING, 6))) * _RING


def _checked_axes(series: Sequence[Series]) -> list[str]:
    axes = axes_of(series)
    if len(axes) < 3:
        raise ValueError(
            f"radar of {', '.join(axes) or 'nothing'}: it needs at least three common abilities; leave it out"
        )
    return axes
