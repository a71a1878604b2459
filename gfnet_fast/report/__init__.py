"""Measurements as HTML pages that need nothing else: evaluations, benchmarks, training runs."""

from gfnet_fast.report.page import ReportError, check_drawing, draw_evaluation, draw_report
from gfnet_fast.report.rows import read_rows
from gfnet_fast.report.runs import Run, read_run

__all__ = [
    "ReportError",
    "Run",
    "check_drawing",
    "draw_evaluation",
    "draw_report",
    "read_rows",
    "read_run",
]
