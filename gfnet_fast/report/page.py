"""Pages of measurements: sections with their charts, put into the templates."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gfnet_fast.errors import GFNetError, InputError
from gfnet_fast.report.charts import STYLE
from gfnet_fast.report.rows import Row, check_row, is_bench
from gfnet_fast.report.runs import Run

if TYPE_CHECKING:
    from gfnet_fast.report.evaluation import Evaluation

MOST_SECTIONS = 100
WHOLE = 16
"""Letters of a name that stay together on a narrow page."""

_PARTS = re.compile(r"[^-_./\\\s]*[-_./\\\s]*", re.ASCII)


class ReportError(GFNetError, RuntimeError):
    """A report cannot be drawn here."""


def check_drawing() -> None:
    """Raise ReportError, which says what to install, where nothing can be drawn."""
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        expected = "matplotlib and jinja2 (pip install 'gfnet-fast[report]')"
        raise ReportError(f"report: expected {expected}, got no {' and no '.join(missing)}")


def draw_report(rows: Sequence[Row] = (), runs: Sequence[Run] = ()) -> str:
    """The page for rows of :func:`gfnet_fast.benchmark.run_benchmark` and for training runs.

    Rows of training among `rows` are a run without a folder.

    Raises
    ------
    ReportError
        Without matplotlib.
    InputError
        On rows of another kind, and on numbers that cannot be drawn.
    """
    check_drawing()
    for number, row in enumerate(rows, 1):
        check_row(row, f"row {number}")
    from gfnet_fast.report import benchmark, training

    groups = benchmark.groups([row for row in rows if is_bench(row)])
    if loose := [row for row in rows if not is_bench(row)]:
        runs = [Run("metrics", loose), *runs]
    if len(groups) + len(runs) > MOST_SECTIONS:
        expected = f"at most {MOST_SECTIONS} models, machines, data sets and runs"
        raise InputError(f"rows: expected {expected}, got {len(groups) + len(runs)}")

    def sections() -> dict[str, Any]:
        return {
            "sections": [benchmark.section(group, number) for number, group in enumerate(groups)],
            "runs": [training.section(run, number) for number, run in enumerate(runs)],
        }

    try:
        return _page("report.html", sections)
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise InputError(f"rows: expected those of a benchmark or of training, got {error!r}") from error


def draw_evaluation(of: Evaluation) -> str:
    """The page for what `gfnet-fast eval` finds. Raises ReportError without matplotlib."""
    check_drawing()
    from gfnet_fast.report import evaluation

    return _page("evaluation.html", lambda: evaluation.section(of))


def breakable(text: str) -> str:
    """A name as markup that may be broken after its signs, and where nothing else helps anywhere."""
    from markupsafe import Markup

    parts = (part[at : at + WHOLE] for part in _PARTS.findall(text) for at in range(0, len(part), WHOLE))
    return Markup("<wbr>").join(parts)


def _page(template: str, content: Callable[[], dict[str, Any]]) -> str:
    """A template with what it is given, whose charts are drawn in the house's style."""
    import matplotlib as mpl
    from jinja2 import Environment, PackageLoader, StrictUndefined

    with mpl.rc_context(STYLE):
        values = content()
    pages = Environment(
        loader=PackageLoader("gfnet_fast.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["breakable"] = breakable
    return pages.get_template(template).render(values)
