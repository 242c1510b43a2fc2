"""The figure of the generalisation gap: UAR by protocol, as an SVG with the same bytes everywhere.

It is written as SVG and not drawn by a plotting library, whose output differs between versions, so
that a test can hold the file in ``docs`` and the results together byte by byte. The background is
white, because a page that shows the figure may be light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["GapRow", "draw_gap"]

# Pixels. Labels of rows stand left of the plot, those of points may reach beyond its right.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 880, 310, 156, 76, 48, 62
_FAR = 40  # percent points between two marks that each get the words

_STYLE = (
    "text{font-family:system-ui,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif;"
    "font-size:12px;fill:#3d4652}"
    ".title{font-size:15px;font-weight:600;fill:#1b2129}"
    ".name{font-size:12.5px;font-weight:600;fill:#1b2129}"
    ".value{font-size:13px;font-weight:600;fill:#1f4fa8}"
    ".word{font-weight:600;fill:#a8430a}"
    ".end{text-anchor:end}.mid{text-anchor:middle}"
    ".grid{stroke:#e3e6ea}.rule{stroke:#f0f1f3}"
    ".chance{stroke:#7b8794;stroke-dasharray:4 3}"
    ".interval{stroke:#3f73d8;stroke-width:2.5}"
    ".mean{fill:#3f73d8}.seed{fill:#ffffff;stroke:#1f4fa8;stroke-width:1.3}"
    ".authors{fill:none;stroke:#7b8794;stroke-width:1.5}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GapRow:
    """One protocol. Scores are UAR in percent.

    Attributes
    ----------
    name, detail
        What stands left of the row: the protocol; folds, epochs and seeds.
    words
        Warning words of the protocol, written at its points.
    mean, low, high
        Ours, with the ends of its interval; ``None`` where there is no result.
    seeds
        One value per seed, where they are known.
    authors, authors_detail
        What the authors of the system report under this protocol, and how they trained.
    """

    name: str
    detail: str = ""
    words: str = ""
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: tuple[float, ...] = ()
    authors: float | None = None
    authors_detail: str = ""


def draw_gap(rows: Sequence[GapRow], *, title: str, chance: float) -> str:
    """Draw one row per protocol, over the UAR of always answering the commonest class."""
    bottom = _TOP + _ROW * len(rows)
    height = bottom + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape("; ".join(map(_in_words, rows)))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="#ffffff"/>',
        _text(18, 28, title, "title"),
        *_key(48),
        *_axis(bottom, chance),
    ]
    for number, row in enumerate(rows):
        parts += _row(_TOP + _ROW * number, row)
    return "\n".join([*parts, "</svg>", ""])


def _row(top: int, row: GapRow) -> list[str]:
    middle = top + _ROW // 2
    parts = [
        _line(18, top, _WIDTH - 18, top, "rule"),
        _text(_LEFT - 18, middle - 3, row.name, "name end"),
        _text(_LEFT - 18, middle + 14, row.detail, "end"),
    ]
    if row.mean is not None and row.low is not None and row.high is not None:
        parts.append(_line(_x(row.low), middle, _x(row.high), middle, "interval"))
        parts.append(f'<circle class="mean" cx="{_x(row.mean)}" cy="{middle}" r="6.5"/>')
        for value in row.seeds:
            parts.append(f'<circle class="seed" cx="{_x(value)}" cy="{middle}" r="2.8"/>')
        parts.append(_text(_x(row.mean), middle - 12, f"{row.mean:.1f}", "value mid"))
    if row.authors is not None:  # after ours, which may lie in the same place
        x, end = _x(row.authors), _x(max(row.authors, row.high or 0))
        parts.append(_diamond(x, middle))
        parts.append(_text(end + 12, middle + 4, f"{row.authors:.1f}, {row.authors_detail}"))
    for value in _marked_by_words(row):
        parts.append(_text(_x(value), middle + 22, row.words, "word mid"))
    return parts


def _marked_by_words(row: GapRow) -> list[float]:
    """Choose the marks below which the words stand: both, unless they are so near as to share."""
    marks = [mark for mark in (row.mean, row.authors) if row.words and mark is not None]
    near = len(marks) == 2 and abs(marks[0] - marks[1]) < _FAR
    return marks[:1] if near else marks


def _axis(bottom: int, chance: float) -> list[str]:
    parts = []
    for value in range(0, 101, 10):
        parts.append(_line(_x(value), _TOP, _x(value), bottom, "grid"))
        parts.append(_text(_x(value), bottom + 17, f"{value}", "mid"))
    parts.append(_text(_x(50), bottom + 36, "UAR (UA), %", "mid"))
    parts.append(_line(_x(chance), _TOP, _x(chance), bottom, "chance"))
    return parts


def _key(y: int) -> list[str]:
    """Explain the marks, in one line below the title."""
    return [
        f'<circle class="mean" cx="25" cy="{y}" r="6.5"/>',
        _text(38, y + 4, "mean over seeds"),
        f'<circle class="seed" cx="160" cy="{y}" r="2.8"/>',
        _text(170, y + 4, "one seed"),
        _line(244, y, 276, y, "interval"),
        _text(284, y + 4, "95 % interval over speakers"),
        _diamond(476, y),
        _text(493, y + 4, "the authors report"),
        _line(624, y, 652, y, "chance"),
        _text(660, y + 4, "always the commonest class"),
    ]


def _in_words(row: GapRow) -> str:
    told = []
    if row.mean is not None:
        told.append(f"{row.mean:.1f} ({row.low:.1f} to {row.high:.1f})")
    if row.authors is not None:
        told.append(f"the authors {row.authors:.1f}")
    words = f", {row.words}" if row.words else ""
    return f"{row.name}{words}: {', '.join(told) or row.detail}"


def _x(percent: float) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * percent / 100, 2)


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{marked}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path class="authors" d="M{x} {y - 9}l9 9l-9 9l-9 -9z"/>'
