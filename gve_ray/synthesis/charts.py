"""Small charts for the synthesis report: SVG text that follows the page's colours, and the funnel as PNG.

The SVG functions return text. Colors are CSS classes, so a chart fits the light and the dark theme.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from gve_ray.report import new_figure, png, svg

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 18, 24


def histogram(
    values: Sequence[float],
    *,
    label: str,
    threshold: float | None = None,
    above: bool = False,
    others: Sequence[float] = (),
    bins: int = 40,
) -> str:
    """Counts of values in equal bins; the threshold is a dashed line, and what lies below it is coloured.

    above: colour what lies above the threshold. others: values of another kind, drawn as a line over the bars.
    Raises ValueError on no values: a chart of nothing would look like a result.
    """
    if not len(values):
        raise ValueError(f"histogram {label!r}: no values; leave the chart out")
    data = np.asarray(values, dtype=np.float64)
    shown = [*data, *others, *([] if threshold is None else [threshold])]
    low, high = float(min(shown)), float(max(shown))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(data, bins=bins, range=(low, high))
    outline, _ = np.histogram(others, bins=bins, range=(low, high))
    highest = max(counts.max(), outline.max())
    inner = WIDTH - LEFT - RIGHT
    floor = HEIGHT - BOTTOM

    def x_of(value: float) -> float:
        return LEFT + inner * (value - low) / (high - low)

    parts = []
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if not count:
            continue
        bar = max(1.5, (floor - TOP) * count / highest)  # a single video stays visible
        is_cut = threshold is not None and ((left + right) / 2 < threshold) != above
        parts.append(
            f'<rect class="{"cut" if is_cut else "bar"}" x="{x_of(left):.1f}" y="{floor - bar:.1f}" '
            f'width="{max(1.0, x_of(right) - x_of(left) - 0.8):.1f}" height="{bar:.1f}">'
            f"<title>{left:.3g} to {right:.3g}: {count}</title></rect>"
        )
    if len(others):
        steps = [
            f"{x_of(edge):.1f},{floor - (floor - TOP) * count / highest:.1f}"
            for count, left, right in zip(outline, edges[:-1], edges[1:], strict=True)
            for edge in (left, right)
        ]
        parts.append(f'<polyline class="outline" points="{" ".join(steps)}"/>')
    if threshold is not None:
        at = x_of(threshold)
        side = "end" if at > WIDTH / 2 else "start"
        parts.append(
            f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 4}" y2="{floor}"/>'
            f'<text x="{at:.1f}" y="{TOP - 7}" text-anchor="{side}">cut {threshold:.3g}</text>'
        )
    parts.append(_axis(low, high, floor))
    return svg("".join(parts), label=label, width=WIDTH, height=HEIGHT)


def spans(rows: Mapping[str, Sequence[float]], *, label: str, unit: str) -> str:
    """One line a row: 5th to 95th percentile as a bar, the median as a dot with its value."""
    rows = {name: values for name, values in rows.items() if len(values)}
    if not rows:
        raise ValueError(f"spans {label!r}: no values; leave the chart out")
    high = max(float(np.percentile(values, 95)) for values in rows.values()) or 1.0
    name_width, line = 110, 26
    height = TOP + line * len(rows) + BOTTOM
    inner = WIDTH - name_width - 40
    parts = []
    for i, (name, values) in enumerate(rows.items()):
        p5, p50, p95 = (float(x) for x in np.percentile(values, [5, 50, 95]))
        y = TOP + line * i + line / 2
        x5, x50, x95 = (name_width + inner * p / high for p in (p5, p50, p95))
        parts.append(
            f'<text x="{name_width - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar soft" x="{x5:.1f}" y="{y - 6}" width="{max(2.0, x95 - x5):.1f}" height="12" '
            f'rx="3"><title>{escape(name)}: {p5:.0f} to {p95:.0f} {escape(unit)}, n={len(values)}</title>'
            "</rect>"
            f'<circle class="bar" cx="{x50:.1f}" cy="{y}" r="5"/>'
            f'<text x="{max(x95, x50) + 9:.1f}" y="{y + 4}">{p50:.0f}</text>'
        )
    caption = f"median {unit}; bar from the 5th to the 95th percentile"
    parts.append(f'<text x="{LEFT}" y="{height - 8}">{escape(caption)}</text>')
    return svg("".join(parts), label=label, width=WIDTH, height=height)


def bars(rows: Mapping[str, int], *, label: str) -> str:
    """One horizontal bar a row with its count."""
    if not rows:
        raise ValueError(f"bars {label!r}: no rows; leave the chart out")
    high = max(max(rows.values()), 1)
    name_width, line = 110, 26
    height = TOP + line * len(rows)
    inner = WIDTH - name_width - 56
    parts = []
    for i, (name, count) in enumerate(rows.items()):
        y = TOP + line * i
        width = inner * count / high
        parts.append(
            f'<text x="{name_width - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar" x="{name_width}" y="{y}" width="{width:.1f}" height="18" rx="3"/>'
            f'<text x="{name_width + width + 6:.1f}" y="{y + 13}">{count:,}</text>'
        )
    return svg("".join(parts), label=label, width=WIDTH, height=height)


def _axis(low: float, high: float, floor: int) -> str:
    ticks = []
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = LEFT + (WIDTH - LEFT - RIGHT) * share
        value = low + (high - low) * share
        ticks.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="{anchor}">{value:.3g}</text>')
    line = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>'
    return line + "".join(ticks)


def funnel_png(stages: Sequence[tuple[str, int, int]], reasons: Mapping[str, Mapping[str, int]]) -> bytes:
    """The funnel as a PNG for the README: one bar per stage (name, in, out), labeled with reject reasons."""
    figure = new_figure(9, 0.52 * len(stages) + 0.5)
    axes = figure.add_subplot()
    top = max((n_in for _, n_in, _ in stages), default=0) or 1
    for row, (name, n_in, n_out) in enumerate(stages):
        axes.barh(row, n_out, color="#2f6f8f", height=0.62)
        axes.barh(row, n_in - n_out, left=n_out, color="#d98032", height=0.62)
        why = ", ".join(f"{count} {reason}" for reason, count in _largest(reasons.get(name, {})))
        text = f"{n_out:,} of {n_in:,}" + (f"   ({why})" if why else "")
        axes.text(n_in + top * 0.01, row, text, va="center", fontsize=8.5, color="#222222")
    axes.set_yticks(range(len(stages)), [name for name, _, _ in stages], fontsize=9.5)
    axes.invert_yaxis()
    axes.set_xlim(0, top * 1.75)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return png(figure)


def _largest(reasons: Mapping[str, int], n: int = 3) -> list[tuple[str, int]]:
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:n]
