"""How charts look: curves by matplotlib, as SVG in the colours that the page has at the moment."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, RULE, PAPER = "#1f2328", "#656d76", "#d0d7de", "#fefefe"
ENGINE, EAGER, OFFICIAL, STATIC = "#0969da", "#bc4c00", "#57606a", "#8250df"
STEPS = ("#1f7fe0", "#c97a00", "#d13fa2", "#1f9d58", "#a08c00", "#7b57dd", "#de4a3d")

# The page's variable of each: in a file of colours of its own a chart would be dark on dark.
_VARIABLES = {
    INK: "ink",
    FAINT: "faint",
    RULE: "rule",
    PAPER: "paper",
    ENGINE: "engine",
    EAGER: "eager",
    OFFICIAL: "official",
    STATIC: "static",
    **{colour: f"step-{number}" for number, colour in enumerate(STEPS, 1)},
}
_PAINT = re.compile(r"\b(fill|stroke): (#[0-9a-f]{6})")
_FONT = re.compile(r"font: ([0-9.]+px) [^;\"]*")

SIZE = (5.1, 3.3)
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "gfnet", "font.family": "sans-serif", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": RULE, "axes.grid": True,
    "grid.color": RULE, "grid.linewidth": 0.5, "axes.axisbelow": True, "text.color": INK,
    "axes.labelcolor": FAINT, "xtick.color": FAINT, "ytick.color": FAINT, "legend.frameon": False,
    "legend.fontsize": 8, "text.parse_math": False, "axes.formatter.useoffset": False,
}  # fmt: skip


class Bar(NamedTuple):
    """A line of a chart of bars that the page draws itself: name, parts (percent, colour), figures."""

    name: str
    parts: list[tuple[float, str]]
    value: str = ""


def new_figure() -> tuple[Any, Axes]:
    """A figure as wide as half a page or a telephone, on which its letters keep their size."""
    from matplotlib.figure import Figure

    figure = Figure(SIZE, layout="constrained")
    return figure, figure.subplots()


def add_legend(figure: Any, axes: Axes) -> None:
    """Below the chart, each name once, in as many columns as fit."""
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if not named:
        return
    widest = max(map(len, named))
    columns = max(1, min(len(named), 66 // (widest + 6)))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)


def plain_numbers(axes: Axes) -> None:
    """20, 50, 100 on a logarithmic axis of costs."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))


def svg(figure: Any, salt: str, title: str) -> str:
    """The figure as an element of a page; `salt` keeps its ids apart from other figures'."""
    import matplotlib as mpl
    from markupsafe import Markup, escape

    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": f"gfnet-{salt}"}):
        figure.savefig(text, format="svg", metadata=nothing, transparent=True)
    found = text.getvalue()
    found = found[found.index("<svg") + 4 :]
    found = _PAINT.sub(lambda match: f"{match[1]}: {_variable(match[2])}", found)
    found = _FONT.sub(r"font-size: \1", found)
    return Markup(f'<svg role="img" aria-label="{escape(title)}"{found}')


def variable(colour: str) -> str:
    """What a style on the page says for one of the colours above."""
    return f"var(--{_VARIABLES[colour]})"


def step_colour(step: int) -> str:
    """Of step 1, 2, ...; as in pictures of glance and focus boxes."""
    return STEPS[(step - 1) % len(STEPS)]


def _variable(colour: str) -> str:
    return variable(colour) if colour in _VARIABLES else colour
