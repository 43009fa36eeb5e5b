"""How figures look: one color, marker and line per system everywhere, and SVG that follows the page's theme.

Figures are drawn in the light theme's colors. `figure_svg` turns each of these colors into a CSS
variable of the page, so that one drawing serves light, dark and print.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdasr.common.files import atomic_path


@dataclass(frozen=True)
class Color:
    """One role's color in both themes."""

    name: str
    """CSS variable, without the dashes in front."""
    light: str
    dark: str


@dataclass(frozen=True)
class SystemStyle:
    """How one system is drawn; marker and line differ too, for readers who cannot tell the colors apart."""

    color: Color
    marker: str
    line: tuple[float, tuple[float, ...]]
    """Matplotlib's dash pattern: offset, lengths (empty: solid)."""


INK = Color("ink", "#1c2127", "#e6e9ed")
MUTED = Color("muted", "#59636e", "#a3adb8")
RULE = Color("rule", "#d3d9df", "#3a424b")
PAPER = Color("paper", "#fefefe", "#15191e")
ERROR = Color("error", "#b3261f", "#ff8a80")

# After Okabe and Ito's palette, darkened until text in these colors is readable on white.
_SYSTEM_STYLES = (
    SystemStyle(Color("system-0", "#5d6873", "#a9b4bf"), "s", (0, (1.0, 1.2))),
    SystemStyle(Color("system-1", "#b05a00", "#f2a24c"), "o", (0, (5.0, 1.8))),
    SystemStyle(Color("system-2", "#007a5e", "#43c79f"), "^", (0, (5.0, 1.5, 1.0, 1.5))),
    SystemStyle(Color("system-3", "#0060b0", "#6cb4ff"), "D", (0, ())),
    SystemStyle(Color("system-4", "#94357c", "#e291cb"), "v", (0, (3.0, 1.0))),
    SystemStyle(Color("system-5", "#6a6100", "#d3c64a"), "P", (0, (7.0, 2.0))),
    SystemStyle(Color("system-6", "#0a7485", "#5cc8da"), "X", (0, (2.0, 2.0))),
    SystemStyle(Color("system-7", "#7b4a2a", "#d6a07c"), "*", (0, (9.0, 1.5, 2.0, 1.5))),
)

COLORS = (INK, MUTED, RULE, PAPER, ERROR, *(style.color for style in _SYSTEM_STYLES))

_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK.light,
    "axes.labelcolor": MUTED.light,
    "axes.edgecolor": MUTED.light,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE.light,
    "grid.linewidth": 0.6,
    "text.color": INK.light,
    # A dollar is a character of a transcript or of a name, no formula.
    "text.parse_math": False,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    # Text stays text: it can be selected and searched, and the page's fonts are narrower than this one.
    "svg.fonttype": "none",
    "svg.hashsalt": "kdasr",
}


_FURTHER_MARKERS = ("d", "<", ">", "p", "h", "H", "8")
"""Of the ninth system and those after it."""

Styles = Mapping[str, SystemStyle]
"""By system, for the whole report."""


def system_styles(names: Sequence[str], named: Sequence[str] = ()) -> dict[str, SystemStyle]:
    """The style of every system of a report; those that play a part (`named`) come first, also if absent.

    So these look the same in every report of a recipe. Where there are more systems than colors, those of one
    color have other markers.
    """
    others = [name for name in names if name not in named]
    styles = {name: _SYSTEM_STYLES[index % len(_SYSTEM_STYLES)] for index, name in enumerate(named)}
    spare = _SYSTEM_STYLES[len(named) :] or _SYSTEM_STYLES
    for index, name in enumerate(others):
        style, again = spare[index % len(spare)], index // len(spare)
        further = _FURTHER_MARKERS[(index + again) % len(_FURTHER_MARKERS)]
        styles[name] = replace(style, marker=further) if again else style
    return styles


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw in the report's style inside this block."""
    with matplotlib.rc_context(cast(Any, _SETTINGS)):
        yield


def value_axis(axes: Axes, axis: str = "x") -> None:
    """Grid lines along one axis only: the one with the values."""
    axes.grid(False)
    axes.grid(True, axis="x" if axis == "x" else "y")


def legend_entries(panels: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """Handles and labels of all panels of a figure, each label once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def figure_svg(figure: Figure, prefix: str) -> str:
    """The figure as inline SVG without outside references; its ids start with `prefix`."""
    text = io.StringIO()
    with figure_style():
        figure.savefig(
            text, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font-family: [^;\"]+", lambda found: f"font-family: {_css_font(found[0])}", svg)
    svg = re.sub(
        r"(font: [^'\"]*?)('[^\"]*?)(;|\")", lambda found: found[1] + _css_font(found[2]) + found[3], svg
    )
    for color in COLORS:
        svg = svg.replace(color.light, f"var(--{color.name})")
    # The size comes from the page; the view box keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)


def _css_font(families: str) -> str:
    return "var(--mono)" if "Mono" in families.split(",")[0] else "var(--sans)"


def save_png(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write the figure on the light theme's background."""
    with figure_style(), atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, facecolor=PAPER.light)
