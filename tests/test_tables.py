"""Tables of measurements: what is written is what is read, and no cell is a formula."""

import csv
import subprocess
import sys

import pytest

from gfnet_fast.errors import InputError
from gfnet_fast.tables import check_table, merge_rows, read_rows

FIELDS = ("name", "value")
FORMULAS = ("=1+1", "+x", "-cmd", "@SUM(A1)", "\tx", "\rx", "'=x", "''+x")
TEXTS = ("plain", "'quoted'", "a=b", "-1.5", "+2e3", "", "caf\u00e9, \u732b", "two\nlines")


def test_texts_come_back_and_are_no_formulas(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [{"name": name, "value": number} for number, name in enumerate((*FORMULAS, *TEXTS))]
    merge_rows(path, ["name"], FIELDS, rows)
    assert {row["name"]: int(row["value"]) for row in read_rows(path)} == {
        row["name"]: row["value"] for row in rows
    }
    with path.open(newline="", encoding="utf-8") as file:
        cells = {row["value"]: row["name"] for row in csv.DictReader(file)}
    assert [cells[str(number)] for number in range(len(rows))] == [
        *(f"'{name}" for name in FORMULAS),
        *TEXTS,
    ]
    merge_rows(path, ["name"], FIELDS, [{"name": name, "value": "new"} for name in FORMULAS])
    assert sum(row["value"] == "new" for row in read_rows(path)) == len(FORMULAS)
    assert len(read_rows(path)) == len(rows)


def test_a_surrogate_costs_no_table(tmp_path):
    merge_rows(tmp_path / "rows.csv", ["name"], FIELDS, [{"name": "\ud800", "value": 1}])
    assert read_rows(tmp_path / "rows.csv") == [{"name": r"\ud800", "value": "1"}]


def test_a_table_is_utf_8_in_any_locale(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gfnet_fast.tables import *;"
        "p = Path(sys.argv[1]); merge_rows(p, ['name'], ('name', 'value'), [{'name': chr(233), 'value': 1}]);"
        "sys.exit(read_rows(p) != [{'name': chr(233), 'value': '1'}])"
    )
    locale = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "rows.csv"], env=locale, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "rows.csv").read_bytes() == "name,value\né,1\n".encode()


@pytest.mark.parametrize("text", ["name,value\nx\n", "name,value\nx,1,2\n", "name\nx\n"], ids=ascii)
def test_rows_of_another_form_are_refused_before_anything_is_written(tmp_path, text):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(
        InputError, match=r"rows\.csv: (row 1: expected as many cells|expected a table of name)"
    ):
        check_table(path, FIELDS)
    with pytest.raises(InputError):
        merge_rows(path, ["name"], FIELDS, [{"name": "y", "value": 1}])
    assert path.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
