"""Small line charts side by side as one SVG: one for each measure, the size on a log scale."""

from __future__ import annotations

import math
from html import escape

WIDE, HIGH, ACROSS = 260, 150, 4
LEFT, BELOW, ABOVE = 44, 26, 30


def plot(figures: dict[int, dict[str, float]], measures: dict[str, tuple[str, str, float | None]]) -> str:
    """An SVG with one chart for each measure; a dashed line is the target where it fits into the chart."""
    shown = [key for key in measures if any(key in found for found in figures.values())]
    down = -(-len(shown) // ACROSS)
    parts = [_chart(number, key, measures[key], figures) for number, key in enumerate(shown)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {ACROSS * WIDE} {down * HIGH}" '
        'font-family="system-ui, sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _chart(
    number: int, key: str, measure: tuple[str, str, float | None], figures: dict[int, dict[str, float]]
) -> str:
    what, unit, target = measure
    points = [(size, found[key]) for size, found in figures.items() if key in found]
    top = max(value for _, value in points) * 1.15 or 1.0
    if target is not None and target <= 2 * top:
        top = max(top, target * 1.1)
    low, high = math.log10(points[0][0]), math.log10(points[-1][0])

    def x(size: int) -> float:
        return LEFT + (math.log10(size) - low) / ((high - low) or 1) * (WIDE - LEFT - 24)

    def y(value: float) -> float:
        return HIGH - BELOW - value / top * (HIGH - BELOW - ABOVE)

    line = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in points)
    marks = "".join(f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="2.5" fill="#1a5fb4"/>' for s, v in points)
    sizes = "".join(
        f'<text x="{x(s):.1f}" y="{HIGH - 10}" text-anchor="middle" fill="#555">{_short(s)}</text>'
        for s, _ in points
    )
    aim = ""
    if target is not None and target <= top:
        aim = (
            f'<line x1="{LEFT}" x2="{WIDE - 24}" y1="{y(target):.1f}" y2="{y(target):.1f}" stroke="#a51d2d" '
            f'stroke-dasharray="4 3"/>'
        )
    return (
        f'<g transform="translate({number % ACROSS * WIDE},{number // ACROSS * HIGH})">'
        f'<text x="8" y="16" font-weight="600">{escape(what)}, {escape(unit)}</text>'
        f'<text x="{LEFT - 6}" y="{ABOVE + 4}" text-anchor="end" fill="#555">{top:.3g}</text>'
        f'<text x="{LEFT - 6}" y="{HIGH - BELOW}" text-anchor="end" fill="#555">0</text>'
        f'<path d="M{LEFT} {ABOVE}V{HIGH - BELOW}H{WIDE - 16}" fill="none" stroke="#999"/>{aim}'
        f'<polyline points="{line}" fill="none" stroke="#1a5fb4" stroke-width="1.5"/>{marks}{sizes}</g>'
    )


def _short(size: int) -> str:
    return f"{size // 1_000_000}M" if size >= 1_000_000 else f"{size // 1000}k" if size >= 1000 else str(size)
