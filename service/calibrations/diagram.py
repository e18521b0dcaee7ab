"""A reliability diagram as SVG: what a judge states against the reliability that it has, and the curve that was fitted."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from service.domain.calibration import CurveReport, Curves, SlopeBin

SIZE, LEFT, TOP, RIGHT, BOTTOM = 420, 64, 56, 24, 92
BAR = 26
STEPS = 100


def diagram(report: CurveReport, curves: Curves, question: str | None, source: str, title: str) -> str:
    """The drawing: points are bins, as large as they are full, with two standard errors; bars count the cells below them."""
    width, height = LEFT + SIZE + RIGHT, TOP + SIZE + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{LEFT}" y="42" fill="#666">{escape(_subtitle(report, source))}</text>',
        *_axes(),
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="#999" stroke-dasharray="4 4"/>',
        *_counts(report.bins),
        *_curve(curves, question, source),
        *_points(report.bins),
        *_legend(),
        "</svg>",
    ]
    return "\n".join(parts)


def _subtitle(report: CurveReport, source: str) -> str:
    said = f"{report.labels} labelled cells, confidence '{source}'"
    if report.reliability is not None:
        said += f", reliability {report.reliability:.2f}"
    return said


def _x(value: float) -> float:
    return LEFT + SIZE * value


def _y(value: float) -> float:
    return TOP + SIZE * (1 - min(1.0, max(0.0, value)))


def _axes() -> list[str]:
    found = [f'<rect x="{LEFT}" y="{TOP}" width="{SIZE}" height="{SIZE}" fill="none" stroke="#444"/>']
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        found += [
            f'<line x1="{_x(tick):.1f}" y1="{_y(0)}" x2="{_x(tick):.1f}" y2="{_y(0) + 5}" stroke="#444"/>',
            f'<text x="{_x(tick):.1f}" y="{_y(0) + 18}" text-anchor="middle">{tick:g}</text>',
            f'<line x1="{LEFT - 5}" y1="{_y(tick):.1f}" x2="{LEFT}" y2="{_y(tick):.1f}" stroke="#444"/>',
            f'<text x="{LEFT - 9}" y="{_y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>',
        ]
    middle = TOP + SIZE / 2
    found.append(f'<text x="{_x(0.5)}" y="{_y(0) + 36}" text-anchor="middle">confidence as stated</text>')
    found.append(f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">reliability</text>')
    return found


def _counts(bins: Sequence[SlopeBin]) -> list[str]:
    most = max((b.count for b in bins), default=0) or 1
    return [
        f'<rect x="{_x(b.low) + 2:.1f}" y="{_y(0) - BAR * b.count / most:.1f}" width="{SIZE * (b.high - b.low) - 4:.1f}" '
        f'height="{BAR * b.count / most:.1f}" fill="#dbe4ee"><title>{b.count} cells</title></rect>'
        for b in bins
        if b.count
    ]


def _curve(curves: Curves, question: str | None, source: str) -> list[str]:
    values = [(k / STEPS, curves.at(question, source, k / STEPS)) for k in range(STEPS + 1)]
    line = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in values if y is not None)
    return [f'<polyline points="{line}" fill="none" stroke="#c0392b" stroke-width="2"/>'] if line else []


def _points(bins: Sequence[SlopeBin]) -> list[str]:
    most = max((b.count for b in bins), default=0) or 1
    found = []
    for b in bins:
        if b.stated is None or b.reliability is None:
            continue
        x = _x(b.stated)
        if b.error is not None:
            low, high = _y(b.reliability - 2 * b.error), _y(b.reliability + 2 * b.error)
            found.append(f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="#1f4e79"/>')
        radius = 3 + 5 * (b.count / most) ** 0.5
        found.append(
            f'<circle cx="{x:.1f}" cy="{_y(b.reliability):.1f}" r="{radius:.1f}" fill="#1f4e79" fill-opacity="0.85">'
            f"<title>{b.count} cells stated {b.stated:.2f} and were worth {b.reliability:.2f}</title></circle>"
        )
    return found


def _legend() -> list[str]:
    y = TOP + SIZE + 66
    return [
        f'<circle cx="{LEFT + 6}" cy="{y - 4}" r="5" fill="#1f4e79"/>',
        f'<text x="{LEFT + 18}" y="{y}">people’s labels, ± 2 errors</text>',
        f'<line x1="{LEFT + 190}" y1="{y - 4}" x2="{LEFT + 214}" y2="{y - 4}" stroke="#c0392b" stroke-width="2"/>',
        f'<text x="{LEFT + 220}" y="{y}">calibrated</text>',
        f'<line x1="{LEFT + 300}" y1="{y - 4}" x2="{LEFT + 324}" y2="{y - 4}" stroke="#999" stroke-dasharray="4 4"/>',
        f'<text x="{LEFT + 330}" y="{y}">as stated</text>',
    ]
