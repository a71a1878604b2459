"""What `gfnet-fast eval` shows in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gfnet_fast.cli.console import per_cent, plain_table
from gfnet_fast.text import plain

FEW_CLASSES = 12
"""Up to so many classes have a matrix; of more, so many of the worst and so many confusions are shown."""


def print_budgets(console: Any, facts: dict[str, Any], rows: int) -> None:
    from gfnet_fast.evaluation import spread

    table = plain_table("anytime: step", "M multiply-adds", "accuracy, %", "95 % interval", "stated")
    for row in facts["anytime"]:
        low, high = row["interval"]
        cells = f"{row['macs'] / 1e6:.2f}", f"{row['accuracy']:.2f}", f"{low:.2f} to {high:.2f}"
        table.add_row(str(row["step"]), *cells, _shown(row["stated"]))
    console.print(table)
    if not facts["budgeted"]:
        console.print("no budgets: the model has no thresholds; make some with `gfnet-fast calibrate`")
        return
    columns = ("M multiply-adds", "stated", "accuracy, %", "stated", "% leaving at each step")
    table = plain_table("budget: row", *columns)
    for i in spread(rows, len(facts["budgeted"])):
        row = facts["budgeted"][i]
        stated = None if row["stated_macs"] is None else row["stated_macs"] / 1e6
        found = f"{row['macs'] / 1e6:.2f}", _shown(stated), f"{row['accuracy']:.2f}", _shown(row["stated"])
        table.add_row(str(i), *found, per_cent(row["shares"]))
    console.print(table)
    off = [abs(accuracy - stated) for accuracy, stated in stated_pairs(facts)]
    if off:
        on = facts["stated_on"]["images"]
        there = f"stated on {on} images" if on else "stated, on images that the file does not name"
        count = facts["images"]
        console.print(
            f"{count} images; accuracies {there}: at most {max(off):.2f} percent points off "
            f"(the standard error of one is {50 / count**0.5:.2f} at most)"
        )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def stated_pairs(facts: dict[str, Any]) -> list[tuple[float, float]]:
    """Accuracies found and stated, of all rows where both are there."""
    rows = [*facts["anytime"], *facts["budgeted"]]
    return [(row["accuracy"], row["stated"]) for row in rows if row["stated"] is not None]


def print_findings(console: Any, figures: dict[str, Any], found: Any, names: Sequence[str]) -> None:
    """What the default budget gives: accuracy, classes, confusions."""
    from gfnet_fast.outcome import by_class, confusions, matrix, worst

    low, high = figures["interval"]
    console.print(
        f"default budget: {figures['accuracy']:.2f} % right ({low:.2f} to {high:.2f}), mean over classes "
        f"{figures['class_accuracy']:.2f} %; {figures['mean_steps']:.2f} steps, "
        f"{figures['macs'] / 1e6:.2f} M multiply-adds, {per_cent(figures['shares'])} % leaving at each step\n"
        f"{figures['wrong']} of {len(found.labels)} wrong; with all steps {figures['missed']} of them would "
        f"be right, and {figures['spared']} of the right ones wrong"
    )
    every, pairs = by_class(found), confusions(found)
    few = len(every) <= FEW_CLASSES
    head = "class" if few else f"worst of {len(every)} classes"
    table = plain_table(head, "images", "right, %", "95 % interval", "precision, %")
    for one in every if few else worst(every, FEW_CLASSES):
        recall = None if one.recall is None else 100 * one.recall
        precision = None if one.precision is None else 100 * one.precision
        ends = "-" if recall is None else "{:.1f} to {:.1f}".format(*(100 * end for end in one.interval))
        cells = str(one.images), _short(recall), ends, _short(precision)
        table.add_row(plain(names[one.label]), *cells)
    console.print(table)
    if not pairs:
        return
    if few:
        labels = [one.label for one in every]
        _print_matrix(console, matrix(found, labels)[:, :-1], [plain(names[label]) for label in labels])
        return
    table = plain_table(f"largest of {len(pairs)} confusions: is", "answer", "images")
    for pair in pairs[:FEW_CLASSES]:
        table.add_row(plain(names[pair.label]), plain(names[pair.prediction]), str(pair.images))
    console.print(table)


def _print_matrix(console: Any, counts: Any, names: Sequence[str]) -> None:
    """Rows: what images are; columns: what they are said to be, by number where names take too much room."""
    from rich.cells import cell_len

    widths = [cell_len(name) for name in names]
    if max(widths) + sum(widths) + 2 * len(widths) <= console.width:
        rows, columns = names, names
    else:
        rows, columns = (
            [f"({i}) {name}" for i, name in enumerate(names, 1)],
            [f"({i})" for i in range(1, len(names) + 1)],
        )
    table = plain_table("is, by answer", *columns)
    for name, row in zip(rows, counts.tolist(), strict=True):
        table.add_row(name, *(str(count or ".") for count in row))
    console.print(table)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
