"""Plots as inline SVG: matplotlib draws, the page colours.

Colours are drawn as stand-ins and replaced by CSS variables, so that a plot follows the page into dark mode and onto
paper. Text stays text (in the page's font), ids get the plot's name in front, nothing refers to anything outside.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from personavec.stats.estimate import Estimate

STYLESHEET = Path(__file__).with_name("templates") / "style.css"
WIDTH = 345  # user units; close to the CSS pixels of a phone, so that the fonts below are what a phone shows
NAMES = (
    "ink", "muted", "line", "positive", "negative", "neutral", "score", "coherence", "good",
    "series-1", "series-2", "series-3", "series-4", "series-5", "series-6", "series-7",
)  # fmt: skip
_STAND_INS = {name: f"#fe01{number:02x}" for number, name in enumerate(NAMES)}
SERIES = tuple(_STAND_INS[name] for name in NAMES if name.startswith("series"))
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖"}  # and how text shows them

INK, MUTED, LINE, POSITIVE, NEGATIVE, NEUTRAL, SCORE, COHERENCE, GOOD = (_STAND_INS[name] for name in NAMES[:9])

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "personavec", "text.parse_math": False, "font.size": 11.5,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": LINE, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.titlecolor": INK, "axes.titlesize": 11.5, "axes.titlelocation": "left", "axes.titlepad": 5,
    "axes.labelsize": 11.5, "xtick.labelsize": 11, "ytick.labelsize": 11, "xtick.major.size": 0, "ytick.major.size": 0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.axisbelow": True,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.grid": True, "axes.grid.axis": "y", "grid.color": LINE,
    "grid.linewidth": 0.8, "legend.frameon": False, "legend.fontsize": 11, "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2, "legend.borderaxespad": 0.2, "lines.linewidth": 2, "lines.markersize": 5.5,
    "patch.linewidth": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """One plot of the page: a heading, the drawing, and a sentence on how to read it."""

    title: str
    svg: Markup
    caption: str


def plot(
    name: str,
    title: str,
    caption: str,
    description: str,
    paint: Callable[[Figure], None],
    *,
    height: float = 270,
    width: float = WIDTH,
    layout: Literal["constrained"] | None = "constrained",
) -> Plot:
    """Draw a plot.

    Args:
        name: Unique in the page; letters, digits, hyphens.
        description: What a person who cannot see the plot is told.
        paint: Draws onto the empty figure.
        height, width: In user units, 72 to matplotlib's inch.
        layout: matplotlib's layout engine; None where `paint` places the axes itself, which is faster.
    """
    svg = _painted(paint, (width / 72, height / 72), layout)
    return Plot(title, _inline(svg, name, title, description), caption)


def _painted(
    paint: Callable[[Figure], None], inches: tuple[float, float], layout: Literal["constrained"] | None
) -> bytes:
    """SVG of a figure of this width and height."""
    buffer = BytesIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # The page's font has the letters that the font used for measuring lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure = Figure(figsize=inches, layout=layout)
        paint(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def label(text: object, longest: int = 16) -> str:
    """Text that is safe in a drawing: printable, on one line, not too long."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def standalone(drawn: Plot) -> str:
    """A plot as a file of its own: with the page's light colours, on white."""
    root = ElementTree.fromstring(drawn.svg)
    _, _, width, height = root.get("viewBox", "0 0 1 1").split()
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.attrib |= {"width": f"{2 * float(width):g}", "font-family": "sans-serif"}
    root.insert(2, ElementTree.Element("rect", {"width": width, "height": height, "fill": "#ffffff"}))
    light = dict(re.findall(r"--([\w-]+): (#\w+);", STYLESHEET.read_text(encoding="utf-8").partition("@media")[0]))
    return re.sub(r"var\(--([\w-]+)\)", lambda found: light[found[1]], ElementTree.tostring(root, encoding="unicode"))


_REFERENCE = re.compile(r"#([\w.-]+)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLOUR = re.compile("|".join(_STAND_INS.values()))
_FONT = re.compile(r"font(?:-family)?:[^;]*")
_VARIABLES = {stand_in: f"var(--{name})" for name, stand_in in _STAND_INS.items()}


def _inline(svg: bytes, name: str, title: str, description: str) -> Markup:
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            # matplotlib's style rule would apply to the whole page.
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    elements = list(root.iter())
    referred = {
        target
        for element in elements
        for key, value in element.attrib.items()
        if key.endswith("href") or "url(#" in value
        for target in _REFERENCE.findall(value)
    }
    for element in elements:
        element.tag = element.tag.partition("}")[2]
        element.text = (element.text or "").strip() or None
        element.tail = None
        attributes = {key.partition("}")[2] or key: value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id":
                if value in referred:
                    element.set("id", f"{name}-{value}")
            elif key == "href" or "url(#" in value:
                element.set(key, value.replace("#", f"#{name}-"))
            elif key == "style":
                element.set("style", _styled(value))
            elif not value.startswith("rotate(-0 "):
                element.set(key, _LONG_NUMBER.sub(lambda m: f"{float(m[0]):.2f}", value))
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {"viewBox": box, "role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(position, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # escaped by ElementTree


def _styled(style: str) -> str:
    """Stand-ins become variables; of a font only the size is left, the rest is the page's."""
    sized = _FONT.sub(lambda m: f"font-size: {s[0]}" if (s := re.search(r"[\d.]+px", m[0])) else "", style)
    coloured = _COLOUR.sub(lambda m: _VARIABLES[m[0]], sized)
    return ";".join(part for item in coloured.split(";") if (part := item.strip()))


def whiskers(given: Estimate) -> list[list[float]]:
    """An estimate's interval as matplotlib takes it; nothing where n is too small for one."""
    if not given.bounded:
        return [[0.0], [0.0]]
    return [[max(0.0, given.mean - given.low)], [max(0.0, given.high - given.mean)]]


def in_rows(axes: Any, names: Sequence[str], unit: str, room: float = 0.5) -> None:
    """Axes with a row for each name, the first on top.

    Args:
        unit: Of the horizontal axis.
        room: Above the first row and below the last; of one that has as much to either side, 0.5.
    """
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 1 + room, -room)
    axes.grid(False)
    axes.grid(axis="x")
    axes.set_xlabel(unit)


def dots(axes: Any, values: Sequence[float], row: float, colour: str, *, near: float, alpha: float = 0.9) -> None:
    """Dots on a row; those nearer than `near` to others step aside, up and down by turns."""
    ordered = sorted(values)
    heights: list[float] = []
    for index, value in enumerate(ordered):
        crowd = {heights[i] for i in range(max(0, index - 9), index) if value - ordered[i] < near}
        free = (row + 0.08 * ((step + 1) // 2) * (-1) ** step for step in range(10))
        heights.append(next((height for height in free if height not in crowd), row))
    axes.plot(ordered, heights, "o", color=colour, alpha=alpha, markeredgewidth=0, markersize=6)
