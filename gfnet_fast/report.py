"""Benchmark rows and training metrics as one HTML page that needs nothing else: curves, a ladder, tables."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfnet_fast import tables
from gfnet_fast.errors import GFNetError, InputError, reason, shown
from gfnet_fast.files import parse_json, read_text
from gfnet_fast.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]

BENCH = ("model", "way", "images_per_second", "mean_macs", "accuracy")
TRAINING = ("stage", "epoch")
# What is drawn or shown as a number; the second ones may be missing.
NUMBERS = {
    BENCH: (
        BENCH[2:],
        ("budget_macs", "mean_steps", "accuracy_low", "accuracy_high", "p25_ms", "p50_ms", "p75_ms", "ideal",
         "agreement"),
    ),
    TRAINING: (TRAINING, ("loss", "accuracy", "reward")),
}  # fmt: skip
CURVES = ("loss", "accuracy", "reward")
LARGEST = 1e18
MOST_STEPS, MOST_SECTIONS = 100, 100
SECTION = ("model", "machine", "batch", "data")
INK, FAINT, RULE = "#1f2328", "#656d76", "#d0d7de"
COLOURS = {"engine": "#0969da", "eager": "#bc4c00", "official": "#57606a", "static": "#8250df"}
STEPS = ("#b6d7ff", "#6cb0ff", "#218bff", "#0550ae", "#032563")
MACS = "mean multiply-adds an image"
WIDE, NARROW = (10.4, 3.6), (5.1, 3.6)

LADDER = (
    ("official", "the official way: all steps, crop by crop"),
    ("eager, all steps", "crops cut from uint8, a batch at once"),
    ("eager", "images leave, batch by batch"),
    ("engine", "steps share full batches, batch norms folded"),
)


class ReportError(GFNetError, RuntimeError):
    """A report cannot be drawn here."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .csv or .jsonl file, of a benchmark or of training.

    Raises InputError on another file, on rows of neither kind, and on numbers that cannot be drawn.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise InputError(f"{path}: expected a .csv or .jsonl file, got {path.suffix or 'no suffix'}")
    if not path.exists():
        raise InputError(f"{path}: expected a file, got none of that name")
    if path.suffix.lower() == ".csv":
        rows = tables.read_rows(path)
    else:
        try:
            rows = [parse_json(line) for line in read_text(path).splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: expected a JSON object a line, got {reason(error)}") from None
    for number, row in enumerate(rows, 1):
        _check(row, f"{path}: row {number}")
    if not rows:
        raise InputError(f"{path}: expected rows, got none")
    return rows


def _check(row: Any, where: str) -> None:
    """Raise InputError on a row of neither kind, or with a number that cannot be drawn."""
    kind = next((kind for kind in NUMBERS if isinstance(row, dict) and set(kind) <= set(row)), None)
    if kind is None:
        expected = f"columns {', '.join(BENCH)} of a benchmark, or {' and '.join(TRAINING)} of training"
        raise InputError(f"{where}: expected {expected}, got others")
    needed, others = NUMBERS[kind]
    for name in (*needed, *(name for name in others if row.get(name) not in (None, ""))):
        many = kind is TRAINING and name in CURVES and isinstance(row[name], list)
        values = row[name] if many else [row[name]]
        if not 1 <= len(values) <= MOST_STEPS:
            raise InputError(f"{where}: {name}: expected 1 to {MOST_STEPS} numbers, got {len(values)}")
        if odd := [value for value in values if not _can_be_drawn(value)]:
            expected = f"a number from {-LARGEST:g} to {LARGEST:g}"
            raise InputError(f"{where}: {name}: expected {expected}, got {shown(odd[0])}")
    for share in str(row.get("shares") or 0).split("/") if kind is BENCH else ():
        if not _can_be_drawn(share):
            raise InputError(f"{where}: shares: expected numbers with / between, got {shown(row['shares'])}")


def _can_be_drawn(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        return abs(float(value)) <= LARGEST  # not so for NaN
    except (ValueError, OverflowError):
        return False


def check_drawing() -> None:
    """Raise ReportError, which says what to install, where nothing can be drawn."""
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        expected = "matplotlib and jinja2 (pip install 'gfnet-fast[report]')"
        raise ReportError(f"report: expected {expected}, got no {' and no '.join(missing)}")


def draw_report(rows: Sequence[Row]) -> str:
    """The page for rows of :func:`gfnet_fast.benchmark.run_benchmark` and of training's ``metrics.jsonl``.

    Raises
    ------
    ReportError
        Without matplotlib.
    InputError
        On rows of another kind, and on numbers that cannot be drawn.
    """
    check_drawing()
    for number, row in enumerate(rows, 1):
        _check(row, f"row {number}")
    import matplotlib as mpl
    from jinja2 import Environment

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "gfnet", "font.family": "sans-serif", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": RULE, "axes.grid": True,
        "grid.color": RULE, "grid.linewidth": 0.5, "axes.axisbelow": True, "text.color": INK,
        "axes.labelcolor": FAINT, "xtick.color": FAINT, "ytick.color": FAINT, "axes.titlesize": 10,
        "axes.titlelocation": "left", "axes.titlecolor": INK, "legend.frameon": False,
        "text.parse_math": False,
    }  # fmt: skip
    bench: dict[tuple[str, ...], list[Row]] = {}
    stages: dict[str, list[Row]] = {}
    for row in rows:
        if set(BENCH) <= set(row):
            bench.setdefault(tuple(_told(row, SECTION).values()), []).append(row)
        else:
            name = f"stage {row['stage']}" + (f", {plain(str(row['what']))}" if row.get("what") else "")
            stages.setdefault(name, []).append(row)
    if len(bench) + len(stages) > MOST_SECTIONS:
        expected = f"at most {MOST_SECTIONS} models, machines, data sets and stages"
        raise InputError(f"rows: expected {expected}, got {len(bench) + len(stages)}")
    try:
        with mpl.rc_context(style):
            sections = [_section(group) for group in bench.values()]
            training = [(name, _training(name, group)) for name, group in stages.items()]
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise InputError(f"rows: expected those of a benchmark or of training, got {error!r}") from error
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    return page.render(sections=sections, training=training, columns=COLUMNS)


def _section(rows: Sequence[Row]) -> dict[str, Any]:
    charts = [
        ("Accuracy against multiply-adds", _curve(rows, "mean_macs", f"{MACS}, millions", 1e6)),
        ("Accuracy against throughput", _curve(rows, "images_per_second", "images a second", 1)),
        ("Where images leave", _histogram(rows)),
        ("What each technique adds", _ladder(rows)),
    ]
    facts = _told(rows[0], (*SECTION, "torch", "version", "commit"))
    return {"facts": facts, "charts": charts, "table": [_cells(row) for row in rows]}


def _told(row: Row, names: Iterable[str]) -> dict[str, str]:
    return {name: plain(str(row.get(name, ""))) for name in names}


def _name(row: Row) -> str:
    """What a curve or a point is called; what goes without saying is left out."""
    way, prepared, dtype = _told(row, ("way", "prepared", "dtype")).values()
    return f"{way} ({', '.join(part for part in (prepared, dtype.replace('float32', '')) if part)})"


def _series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(_name(row), []).append(row)
    return series


def _colour(row: Row) -> str:
    return COLOURS.get(str(row["way"]).split(",")[0], INK)


def _step_colour(place: int, of: int) -> str:
    return STEPS[round(place * (len(STEPS) - 1) / max(of - 1, 1))]


def _curve(rows: Sequence[Row], key: str, label: str, unit: float) -> str:
    figure, (axes,) = _figure(NARROW)
    for name, points in _series(rows).items():
        points = sorted(points, key=lambda row: float(row["mean_macs"]))
        x = [float(row[key]) / unit for row in points]
        y = [float(row["accuracy"]) for row in points]
        line = len(points) > 1
        marker = "o" if str(points[0].get("dtype")) == "float32" else "D"
        if points[0]["way"] == "static":  # its head was not trained for full images: only its cost counts
            axes.axvline(x[0], color=_colour(points[0]), linestyle=":", label=f"{name}: cost only")
            continue
        colour = _colour(points[0])
        looks: Any = {"color": colour, "markersize": 4, "markerfacecolor": colour if line else "white"}
        axes.plot(x, y, marker=marker, linewidth=1.5 if line else 0, label=name, **looks)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy, %")
    figure.legend(fontsize=7, loc="outside lower center", ncols=2)
    return _svg(figure, key)


def _histogram(rows: Sequence[Row]) -> str:
    engine = [row for row in rows if row["way"] == "engine" and row.get("dtype") == "float32"]
    engine.sort(key=lambda row: float(row["mean_macs"]))
    figure, (axes,) = _figure(NARROW)
    shares = [[100 * float(share) for share in str(row["shares"]).split("/")] for row in engine]
    names = [f"{float(row['mean_macs']) / 1e6:.3g}{' *' if row.get('default') else ''}" for row in engine]
    places = range(len(engine))  # names may be equal
    bottom = [0.0] * len(shares)
    for step in range(len(shares[0]) if shares else 0):
        heights = [row[step] for row in shares]
        colour = _step_colour(step, len(shares[0]))
        axes.bar(places, heights, bottom=bottom, color=colour, edgecolor="white", label=f"step {step + 1}")
        bottom = [base + height for base, height in zip(bottom, heights, strict=True)]
    axes.set_xticks(places, names)
    axes.set_xlabel(f"{MACS}, millions (*: the model's default)")
    axes.set_ylabel("% of the images")
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 100)
    if shares:
        axes.legend(fontsize=7, ncols=len(shares[0]), loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    return _svg(figure, "exits")


def _ladder(rows: Sequence[Row]) -> str:
    rungs = [(text, row) for way, text in LADDER for row in rows if _rung(row, way)]
    seen = {id(row) for _, row in rungs}
    own = [row for row in rows if row["way"] == "engine" and row.get("default") and id(row) not in seen]
    rungs += [("in {dtype}, {prepared}".format(**_told(row, ("dtype", "prepared"))), row) for row in own]
    rungs += [("static: the backbone on the full image", row) for row in rows if row["way"] == "static"]
    figure, (axes,) = _figure(NARROW)
    speeds = [float(row["images_per_second"]) for _, row in rungs]
    base = next((float(row["images_per_second"]) for _, row in rungs if row["way"] == "official"), None)
    places = list(range(len(rungs)))[::-1]
    axes.barh(places, speeds, color=[_colour(row) for _, row in rungs], height=0.5)
    for place, speed, (text, row) in zip(places, speeds, rungs, strict=True):
        times = "" if base is None else f", {speed / base:.2f} x"
        accuracy = "" if row["way"] == "static" else f", {float(row['accuracy']):.1f} %"
        axes.text(0, place + 0.3, f"{text}: {speed:.0f}{times}{accuracy}", fontsize=7.5, va="bottom")
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(rungs) - 0.2)
    axes.set_xlabel("images a second; times the official way; accuracy at the model's default budget")
    axes.grid(visible=False, axis="y")
    return _svg(figure, "ladder")


def _rung(row: Row, way: str) -> bool:
    """Whether a row is this rung: without a budget, or at the model's own, in float32, not compiled."""
    plain = row.get("dtype") == "float32" and row.get("prepared") != "compiled"
    return row["way"] == way and plain and bool(row.get("default") or not row.get("budget_macs"))


def _training(name: str, rows: Sequence[Row]) -> str:
    """Loss, accuracy and reward by epoch, as far as the stage reports them."""
    shown = [key for key in CURVES if any(row.get(key) is not None for row in rows)]
    figure, panels = _figure(WIDE, max(len(shown), 1))
    for axes, key in zip(panels, shown, strict=False):
        told = [row for row in rows if row.get(key) is not None]
        epochs = [float(row["epoch"]) for row in told]
        values = [row[key] if isinstance(row[key], list) else [row[key]] for row in told]
        width = max(map(len, values))
        for place in range(width):
            line = [float(row[place]) for row in values]
            colour = _step_colour(place, width) if width > 1 else COLOURS["engine"]
            step = place + (2 if key == "reward" else 1)
            axes.plot(epochs, line, marker="o", markersize=3, color=colour, label=f"step {step}")
        if width > 1:
            axes.legend(fontsize=7)
        axes.set_title(key)
        axes.set_xlabel("epoch")
    return _svg(figure, name)


def _figure(size: tuple[float, float], panels: int = 1) -> tuple[Any, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(size, layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _svg(figure: Any, salt: str) -> str:
    """The figure as an element of a page; `salt` keeps its ids apart from other figures'."""
    import matplotlib as mpl
    from markupsafe import Markup

    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": f"gfnet-{salt}"}):
        figure.savefig(text, format="svg", metadata=nothing, transparent=True)
    svg = text.getvalue()
    return Markup(svg[svg.index("<svg") :])


COLUMNS = (
    "contender", "budget, M", "mean M multiply-adds", "mean steps", "accuracy, % (95 %)", "images/s",
    "ms an image, quartiles", "of the ideal", "as the trace", "images",
)  # fmt: skip


def _cells(row: Row) -> list[str]:
    """One line of the table."""

    def shown(key: str, form: str, scale: float = 1) -> str:
        return format(float(row[key]) * scale, form) if row.get(key) not in (None, "") else ""

    speed = shown("images_per_second", ".0f")
    spread = f"{shown('p25_ms', '.3f')} / {shown('p50_ms', '.3f')} / {shown('p75_ms', '.3f')}"
    star = " *" if row.get("default") else ""
    return [
        _name(row), shown("budget_macs", ".2f", 1e-6) + star, shown("mean_macs", ".2f", 1e-6),
        shown("mean_steps", ".2f"),
        f"{shown('accuracy', '.2f')} ({shown('accuracy_low', '.1f')} to {shown('accuracy_high', '.1f')})",
        speed, spread, shown("ideal", ".0%"), shown("agreement", ".2%"), plain(str(row.get("images", ""))),
    ]  # fmt: skip


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gfnet-fast: report</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff;
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem }
h2 { font-size: 1.15rem; margin-top: 2.2rem }
h3 { font-size: 1rem; margin: 0 0 .3rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.5rem 2rem }
figure { margin: 0 }
svg { width: 100%; height: auto }
.facts, .note { color: #656d76; font-size: .87rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .82rem; margin-top: 1.2rem }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #d0d7de; white-space: nowrap }
th { color: #656d76; font-weight: 600 }
td:first-child, th:first-child { text-align: left }
</style>
</head>
<body>
{% if sections %}
<h1>Budgets, accuracy and speed</h1>
{% endif %}
{% for section in sections %}
<h2>{{ section.facts.model }}</h2>
<p class="facts">{{ section.facts.machine }}; batches of up to {{ section.facts.batch }}; torch
{{ section.facts.torch }}; gfnet-fast {{ section.facts.version }} {{ section.facts.commit }}. All contenders
in one run, in turn, round after round; medians.</p>
<div class="charts">
{% for title, chart in section.charts %}
<figure><h3>{{ title }}</h3>{{ chart }}</figure>
{% endfor %}
</div>
<div class="scroll"><table>
<tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for cells in section.table %}
<tr>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
<p class="note">*: the model's default budget. Of the ideal: the time of the networks alone, in full batches,
as a share of the time taken. As the trace: images with the class and the exit step of the plain float32
model. Static: the local backbone on full images, whose head was trained on patches; its cost counts, its
accuracy does not.</p>
{% endfor %}
{% if training %}
<h1>Training</h1>
{% for name, chart in training %}
<h2>{{ name }}</h2>
<figure>{{ chart }}</figure>
{% endfor %}
<p class="note">Means over each epoch's images while the weights move; crops are random or drawn.</p>
{% endif %}
</body>
</html>
"""
